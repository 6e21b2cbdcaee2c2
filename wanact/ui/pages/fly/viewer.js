import {blobOf} from '../../web/blob.js';
import {withoutLateWord} from '../../web/cancelled.js';
import {channelLamps} from '../../web/channels.js';
import {announceToAll, connect, leave} from '../../web/events.js';
import {gliding, wantsStillness} from '../../web/motion.js';
import {ignorePresses} from '../../web/press.js';
import {Playback} from './playback.js';

export function mount({element, props, trigger, watch}) {
  const {announce, hear} = connect(element);
  const root = element.querySelector('.viewer');
  const find = selector => root.querySelector(selector);
  const video = find('video');
  const preview = find('.preview');
  const scrub = find('.controls input[type=range]');
  const bar = find('.bar');
  const notice = find('.notice');
  const valid = withoutLateWord();
  const drawn = find('.drawn');
  const playback = new Playback(props.fps);
  let clip = null; // what is playing: {url, track, key, fps}

  // ---- heads-up display ---------------------------------------------------------------------------------------
  const lamps = channelLamps(find);
  const wantsKeys = find('.switch input');
  try {
    wantsKeys.checked = localStorage.getItem('wanact-keys') !== 'off';
  } catch {
    /* storage is blocked: keep the default */
  }
  wantsKeys.addEventListener('change', () => {
    root.classList.toggle('keys', wantsKeys.checked);
    try {
      localStorage.setItem('wanact-keys', wantsKeys.checked ? 'on' : 'off');
    } catch {
      /* not remembered */
    }
  });
  root.classList.toggle('keys', wantsKeys.checked);

  // Frame 0 is the given picture; frames 1 to 4 obey the first action.
  function showFrame(frame) {
    const step = frame < 1 ? null : Math.floor((frame - 1) / 4);
    const held = clip?.track && step !== null ? clip.track[Math.min(step, clip.track.length - 1)]?.[0] : null;
    lamps.forEach((lamp, i) => {
      lamp.classList.toggle('on', !!held?.[i]);
    });
    scrub.value = frame;
    scrub.style.setProperty('--filled', (100 * frame) / Math.max(1, scrub.max) + '%');
    scrub.setAttribute('aria-valuetext', `frame ${frame} of ${scrub.max}`);
    find('.time').textContent = `${(frame / clip.fps).toFixed(1)} / ${((+scrub.max + 1) / clip.fps).toFixed(1)} s`;
    announce('playhead', {step: video.paused ? null : step, track: clip.key});
  }
  const currentFrame = () => Math.min(+scrub.max, Math.floor(video.currentTime * clip.fps + 0.01));
  (function follow() {
    if (!element.isConnected) return;
    if (clip && !video.hidden && !video.paused) showFrame(currentFrame());
    if (!drawn.hidden) showDrawn(performance.now() / 1000);
    requestAnimationFrame(follow);
  })();

  // ---- while it is drawn ----------------------------------------------------------------------------------------
  async function take({begin, frames}) {
    const playing = playback.images;
    const images = await Promise.all(frames.map(frame => createImageBitmap(blobOf(frame))));
    if (playing === playback.images) playback.add(begin, images);
  }
  function showDrawn(now) {
    const image = playback.at(now);
    if (!image) return;
    if (drawn.width !== image.width || drawn.height !== image.height)
      Object.assign(drawn, {width: image.width, height: image.height});
    drawn.getContext('2d').drawImage(image, 0, 0);
    drawn.dataset.frame = Math.floor(playback.position);
  }

  // ---- controls -----------------------------------------------------------------------------------------------
  function showPlaying() {
    find('[data-do=play]').classList.toggle('playing', !video.paused);
    find('[data-do=play]').setAttribute('aria-label', video.paused ? 'Play' : 'Pause');
    if (clip) showFrame(currentFrame());
  }
  video.addEventListener('play', showPlaying);
  video.addEventListener('pause', showPlaying);
  video.addEventListener('click', () => toggle());
  video.addEventListener('loadedmetadata', () => {
    find('.screen').style.setProperty('--clip-ratio', video.videoWidth / video.videoHeight);
    if (playback.images.length) video.currentTime = (playback.position + 0.5) / clip.fps; // it goes on where it was
    playback.clear();
    scrub.max = Math.max(1, Math.round(video.duration * clip.fps) - 1);
  });
  // The address of the clip dies when the server cleans up; the page keeps what it has.
  video.addEventListener('error', () => {
    if (clip) say('The clip could not be played; download it, or generate it again.');
  });
  function toggle() {
    video.paused ? video.play().catch(() => {}) : video.pause();
  }
  scrub.addEventListener('input', () => {
    video.pause();
    video.currentTime = (+scrub.value + 0.5) / clip.fps;
    showFrame(+scrub.value);
  });

  // ---- states ---------------------------------------------------------------------------------------------------
  function say(message) {
    notice.hidden = !message;
    notice.querySelector('span').textContent = message || '';
  }
  function play(value) {
    const playing = clip?.record;
    clip = {track: value.track, key: JSON.stringify(value.track), fps: value.fps, record: value.record.url};
    find('a.clip').href = value.video.url;
    find('a.clip').download = value.video.orig_name || 'wanact.mp4';
    find('a.record').href = value.record.url;
    find('a.record').download = value.record.orig_name || 'wanact-flight.json';
    for (const form of ['gif', 'webp']) {
      const link = find(`a.${form}`);
      link.classList.toggle('to-come', !value[form]);
      if (value[form])
        Object.assign(link, {href: value[form].url, download: value[form].orig_name || `wanact.${form}`});
    }
    find('.caption').textContent = value.caption || '';
    if (clip.record === playing) return; // the same clip, whose GIF and WebP have come
    video.src = value.video.url;
    video.loop = video.autoplay = !wantsStillness();
    if (video.autoplay) video.play().catch(() => {}); // a browser that blocks autoplay shows the play button instead
  }
  function show() {
    const value = valid(props.value || {status: 'idle'});
    const status = value.status;
    if (status === 'done' && value.video) play(value);
    const working = status === 'working' || status === 'queued';
    root.dataset.status = status === 'idle' && clip ? 'done' : status;
    root.setAttribute('aria-busy', working ? 'true' : 'false');
    if (working) {
      video.pause();
      find('.what').textContent = value.message || '';
      const share = Math.round(100 * (value.progress || 0));
      bar.style.width = share + '%';
      bar.setAttribute('aria-valuenow', share);
      if (value.preview) preview.src = value.preview;
      if (value.frames?.length) {
        drawn.hidden = false;
        take(value).catch(() => {}); // the clip itself follows
      }
    } else {
      preview.removeAttribute('src');
    }
    preview.hidden = !(working && preview.src) || wantsStillness(); // it loops
    if (status !== 'working') {
      drawn.hidden = true;
      if (status !== 'done') playback.clear();
    }
    const hasClip = !!clip && !working;
    video.hidden = !hasClip;
    find('.invite').hidden = working || hasClip;
    for (const row of ['.controls', '.after', '.caption']) find(row).classList.toggle('to-come', !hasClip);
    say(status === 'failed' || status === 'cancelled' ? value.message : '');
    if (hasClip && status !== 'done') showFrame(currentFrame());
  }
  const isBusy = () => root.isConnected && root.getAttribute('aria-busy') === 'true';
  ignorePresses('#generate', isBusy);
  // Shown at the press of the button, before the server has answered.
  hear('generate', () => {
    if (isBusy()) return;
    props.value = {status: 'queued', message: 'Waiting for the model…', progress: 0};
    show();
    if (innerWidth < 900) root.scrollIntoView({block: 'center', behavior: gliding()});
  });
  // Gradio writes the place in the queue into its own status line, which layout.css hides.
  new MutationObserver(() => {
    const place = /queue:\s*(\d+)\/(\d+)/.exec(
      element.closest('.block').querySelector('[data-testid=status-tracker]')?.textContent || '',
    );
    if (!place || root.dataset.status !== 'queued') return;
    const text = place[1] === '1' ? 'You are next' : `In line: number ${place[1]} of ${place[2]}`;
    if (find('.what').textContent !== text) find('.what').textContent = text;
  }).observe(element.closest('.block'), {childList: true, characterData: true, subtree: true});
  hear('failed', () => {
    if (!isBusy()) return;
    props.value = {status: 'failed', message: 'The clip was not drawn; nothing else has changed. Try again.'};
    show();
  });
  root.addEventListener('click', event => {
    const what = event.target.closest('[data-do]')?.dataset.do;
    if (what === 'play') toggle();
    else if (what === 'dismiss') say('');
    else if (what === 'cancel') {
      find('.what').textContent = 'Cancelling…';
      trigger('cancel');
    } else if (what === 'extend') trigger('extend');
    else if (what === 'compare') {
      leave('compare-flight', find('a.record').href);
      announceToAll('compare-flight', {});
      announceToAll('go', {place: 'compare'});
    }
  });
  find('.screen').style.setProperty('--own-ratio', props.ratio);
  watch('value', show);
  show();
}
