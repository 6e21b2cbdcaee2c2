import {withoutLateWord} from '../../web/cancelled.js';
import {channelLamps} from '../../web/channels.js';
import {connect} from '../../web/events.js';
import {maskLayer} from '../../web/masks.js';
import {gliding, wantsStillness} from '../../web/motion.js';
import {ignorePresses} from '../../web/press.js';
import {makeClock} from './clock.js';
import {sparkline} from './sparkline.js';

export function mount({element, props, trigger, watch}) {
  const {announce, hear} = connect(element);
  const root = element.querySelector('.stage');
  const find = selector => root.querySelector(selector);
  const all = selector => [...root.querySelectorAll(selector)];
  const video = find('video');
  const grid = find('.grid');
  const scrub = find('.transport input[type=range]');
  const big = find('.big');
  const canvas = find('.big canvas');
  const valid = withoutLateWord();
  // Which way is better; a lane's figure is marked only where the lanes differ.
  const HIGHER = ['control', 'likeness', 'sharpness at the end', 'PSNR to the truth', 'SSIM to the truth'];
  const LOWER = ['lag', 'colour shift at the end', 'GMSD to the truth'];
  let lanes = [];
  let layout = null;
  let track = [];
  let view = 'side';
  let wipe = 0.5;
  let clipShown = '';
  let link = '';
  let shades = []; // of each lane, what lies outside of its masks
  let firstFrame = ''; // what the flight begins with, for lanes that are not drawn yet

  // ---- one clock, and the lanes cut from its picture ---------------------------------------------------------------
  const clock = makeClock(video, {
    onFrame: frame => {
      drawLanes(frame);
      showFrame(frame);
    },
    onPlaying: playing => {
      const button = find('[data-do=play]');
      button.classList.toggle('playing', playing);
      button.setAttribute('aria-label', playing ? 'Pause' : 'Play');
    },
  });
  function cut(context, index, width, height) {
    const [left, top] = layout.places[index];
    context.drawImage(video, left, top, layout.width, layout.height, 0, 0, width, height);
  }
  function drawLanes(frame) {
    if (!layout || video.readyState < 2) return;
    for (const figure of grid.children) {
      const index = +figure.dataset.index;
      const own = figure.querySelector('canvas');
      if (!layout.shown[index]) continue;
      if (own.width !== layout.width || own.height !== layout.height)
        Object.assign(own, {width: layout.width, height: layout.height});
      cut(own.getContext('2d'), index, own.width, own.height);
      if (find('.masks').checked) shades[index]?.(own.getContext('2d'), frame, own.width, own.height);
      figure.dataset.frame = frame;
    }
    if (view !== 'side') drawBig();
  }
  function drawBig() {
    const left = +find('.left').value;
    const right = +find('.right').value;
    const missing = [left, right].find(index => !layout?.shown[index]);
    find('.pair-note').textContent =
      left === right
        ? 'Both sides are the same lane: choose another one.'
        : missing === undefined
          ? ''
          : `Lane ${lanes[missing]?.letter} is not drawn yet.`;
    canvas.hidden = missing !== undefined;
    if (missing !== undefined) return;
    const {width, height} = layout;
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, {width, height});
    const context = canvas.getContext('2d');
    context.globalCompositeOperation = 'source-over';
    context.filter = 'none';
    cut(context, left, width, height);
    if (view === 'difference') {
      context.globalCompositeOperation = 'difference';
      cut(context, right, width, height);
      context.globalCompositeOperation = 'source-over';
      context.filter = 'brightness(3)'; // small differences are to be seen
      context.drawImage(canvas, 0, 0);
      context.filter = 'none';
      return;
    }
    const edge = Math.round(width * wipe);
    const [x, y] = layout.places[right];
    if (edge < width) context.drawImage(video, x + edge, y, width - edge, height, edge, 0, width - edge, height);
    context.fillStyle = '#fff';
    context.fillRect(edge - 1, 0, 2, height);
  }
  function showFrame(frame) {
    scrub.max = Math.max(1, clock.count - 1);
    scrub.value = frame;
    scrub.style.setProperty('--filled', (100 * frame) / Math.max(1, scrub.max) + '%');
    scrub.setAttribute('aria-valuetext', `frame ${frame} of ${scrub.max}`);
    find('.time').textContent = `frame ${frame} / ${scrub.max}`;
    const held = frame < 1 ? null : track[Math.min(Math.floor((frame - 1) / 4), track.length - 1)]?.[0];
    lamps.forEach((lamp, i) => {
      lamp.classList.toggle('on', !!held?.[i]);
    });
    const share = frame / Math.max(1, clock.count - 1);
    for (const plot of all('.spark')) plot.moveTo(share);
  }
  const lamps = channelLamps(find);

  // ---- transport ------------------------------------------------------------------------------------------------------
  scrub.addEventListener('input', () => clock.seek(+scrub.value));
  find('.speed').addEventListener('change', event => clock.setSpeed(+event.target.value));
  find('.loop').checked = !wantsStillness();
  find('.loop').addEventListener('change', event => clock.setLoop(event.target.checked));
  // Of all lanes side by side: which network looks where. Wipe and difference show the pictures as they are.
  find('.masks').addEventListener('change', () => {
    sayMasks();
    drawLanes(clock.frame);
  });
  function sayMasks() {
    const {by, problem} = props.value?.masks || {};
    const box = find('.masks');
    const failed = lanes.find(lane => lane.masks?.problem)?.masks.problem;
    box.disabled = !by;
    if (!by) box.checked = false;
    const words = problem || (box.checked && (failed || `Dark is what ${by} does not look at.`)) || '';
    find('.masking').textContent = words;
    find('.masking').hidden = !words || !layout;
  }
  async function shadeLanes() {
    const now = lanes;
    const read = await Promise.all(now.map(lane => (lane.masks?.strip ? maskLayer(lane.masks) : null)));
    if (now !== lanes) return;
    shades = read;
    drawLanes(clock.frame);
  }
  find('.view').addEventListener('change', event => {
    view = event.target.value;
    showView();
  });
  const chosen = {}; // the lanes that somebody has chosen for the two sides; else the first two
  for (const side of ['.left', '.right'])
    find(side).addEventListener('change', event => {
      chosen[side] = event.target.value;
      drawBig();
    });
  function showView() {
    big.hidden = view === 'side';
    big.dataset.view = view;
    grid.style.display = '';
    canvas.setAttribute('role', view === 'wipe' ? 'slider' : 'img');
    for (const [name, value] of Object.entries({min: 0, max: 100, now: Math.round(100 * wipe)})) {
      if (view === 'wipe') canvas.setAttribute(`aria-value${name}`, value);
      else canvas.removeAttribute(`aria-value${name}`);
    }
    canvas.setAttribute(
      'aria-label',
      view === 'wipe'
        ? 'Where the left lane gives way to the right one'
        : 'Difference of the two lanes, three times as bright',
    );
    // Every lane can be chosen from the start; one that is drawn later appears when it is.
    for (const [side, first] of [
      ['.left', 0],
      ['.right', 1],
    ]) {
      const select = find(side);
      select.replaceChildren(...lanes.map((lane, i) => new Option(`${lane.letter}: ${lane.label}`, i)));
      select.value = chosen[side] ?? first;
    }
    drawBig();
  }
  function moveWipe(event) {
    const box = canvas.getBoundingClientRect();
    setWipe((event.clientX - box.left) / box.width);
  }
  function setWipe(share) {
    wipe = Math.max(0, Math.min(1, share));
    canvas.setAttribute('aria-valuenow', Math.round(100 * wipe));
    drawBig();
  }
  canvas.addEventListener('pointerdown', event => {
    if (view !== 'wipe') return;
    canvas.setPointerCapture(event.pointerId);
    moveWipe(event);
  });
  canvas.addEventListener('pointermove', event => {
    if (view === 'wipe' && (event.buttons || event.pointerType === 'mouse')) moveWipe(event);
  });
  canvas.addEventListener('keydown', event => {
    const by = {ArrowLeft: -0.02, ArrowRight: 0.02}[event.key];
    if (!by || view !== 'wipe') return;
    event.preventDefault();
    setWipe(wipe + by);
  });
  root.addEventListener('keydown', event => {
    if (event.target.matches('input, select, textarea, canvas') || event.ctrlKey || event.metaKey || event.altKey)
      return;
    if (event.key === 'ArrowLeft' || event.key === 'ArrowRight') clock.step(event.key === 'ArrowRight' ? 1 : -1);
    else if (event.key === ' ' && !event.target.matches('button, a')) clock.toggle();
    else return;
    event.preventDefault();
  });
  hear('place', ({place}) => {
    if (place !== 'compare') clock.pause();
  });

  // ---- lanes ------------------------------------------------------------------------------------------------------------
  const text = (name, className, content) =>
    Object.assign(document.createElement(name), {className, textContent: content});
  function build() {
    grid.style.setProperty('--columns', lanes.length === 3 ? 3 : 2);
    grid.replaceChildren(
      ...lanes.map((lane, i) => {
        const figure = document.createElement('figure');
        const picture = text('div', 'picture', '');
        const say = text('div', 'say', '');
        const bar = text('div', 'bar', '');
        figure.dataset.index = i;
        const screen = document.createElement('canvas');
        const first = text('img', 'first', '');
        screen.setAttribute('role', 'img');
        first.alt = '';
        first.hidden = true;
        bar.append(document.createElement('i'));
        say.append(text('span', 'line', ''), bar);
        picture.append(first, screen, say, text('b', 'letter', lane.letter));
        const caption = document.createElement('figcaption');
        caption.append(
          text('span', 'name', ''),
          Object.assign(document.createElement('dl'), {className: 'numbers'}),
          text('div', 'plots', ''),
          text('div', 'foot', ''),
        );
        figure.append(picture, caption);
        return figure;
      }),
    );
  }
  function dress() {
    const done = lanes.filter(lane => lane.status === 'done');
    const range = name => {
      const every = done.flatMap(lane => lane.curves?.[name] || []);
      return every.length ? [Math.min(...every), Math.max(...every)] : [0, 1];
    };
    const best = {};
    for (const [names, pick] of [
      [HIGHER, Math.max],
      [LOWER, Math.min],
    ])
      for (const name of names) {
        const values = done
          .filter(lane => !lane.truth)
          .map(lane => lane.numbers?.[name])
          .filter(value => value != null);
        if (values.length > 1 && new Set(values).size > 1) best[name] = pick(...values);
      }
    lanes.forEach((lane, i) => {
      const figure = grid.children[i];
      const say = figure.querySelector('.say');
      const first = figure.querySelector('.first');
      if (firstFrame && first.src !== firstFrame) first.src = firstFrame;
      first.hidden = !first.src || lane.status === 'done';
      figure.dataset.status = lane.status;
      figure.querySelector('.name').textContent = lane.label;
      figure.querySelector('canvas').setAttribute('aria-label', `Lane ${lane.letter}: ${lane.label}`);
      say.hidden = lane.status === 'done';
      say.querySelector('.line').textContent =
        {waiting: 'Queued', drawing: `Flying… ${lane.message || ''}`, failed: lane.message}[lane.status] || '';
      say.querySelector('.bar').hidden = lane.status !== 'drawing';
      say.querySelector('.bar i').style.width = Math.round(100 * (lane.progress || 0)) + '%';
      figure.querySelector('.numbers').replaceChildren(
        ...Object.entries(lane.numbers || {})
          .filter(([, value]) => value != null)
          .flatMap(([name, value]) => [
            text('dt', '', name),
            text('dd', best[name] === value && !lane.truth ? 'best' : '', format(name, value)),
            ...(name === 'control' && lane.control_of ? [text('dd', 'of', `of ${lane.control_of}`)] : []),
          ]),
      );
      const plots = figure.querySelector('.plots');
      plots.replaceChildren(
        ...(lane.status === 'done' ? ['sharpness', 'colour'] : [])
          .filter(name => lane.curves?.[name]?.length)
          .map(name => {
            const box = document.createElement('div');
            box.append(
              text('span', '', name === 'colour' ? 'colour shift' : name),
              sparkline(
                name,
                lane.curves[name],
                done.filter(other => other !== lane).map(other => other.curves[name]),
                range(name),
              ),
            );
            return box;
          }),
      );
      const foot = figure.querySelector('.foot');
      foot.replaceChildren();
      if (lane.video?.url) {
        const link = text('a', '', 'mp4');
        Object.assign(link, {href: lane.video.url, download: lane.video.orig_name || 'wanact.mp4'});
        foot.append(link);
      }
      const id = lane.checkpoint;
      if (lane.status === 'done' && id && id !== 'truth' && id !== 'base') {
        const card = text('button', '', 'Control card');
        card.type = 'button';
        card.addEventListener('click', () => announce('show-card', {id}));
        foot.append(card);
      }
    });
    showFrame(clock.frame);
  }
  function format(name, value) {
    if (name === 'control') return Math.round(100 * value) + ' %';
    if (name === 'lag') return `${+((4 * value) / (props.value?.fps || clock.fps)).toFixed(2)} s`;
    if (name === 'PSNR to the truth') return value.toFixed(1) + ' dB';
    return (+value.toFixed(3)).toString();
  }

  // ---- states -----------------------------------------------------------------------------------------------------------
  function say(message) {
    find('.notice').hidden = !message;
    find('.notice span').textContent = message || '';
  }
  function show() {
    const value = valid(props.value || {status: 'idle'});
    const status = value.status;
    const working = status === 'working' || status === 'queued';
    if (value.lanes?.length) {
      const same =
        lanes.length === value.lanes.length &&
        lanes.every((lane, i) => lane.label === value.lanes[i].label) &&
        status !== 'queued';
      lanes = value.lanes.map(lane => ({...lane, truth: lane.checkpoint === 'truth'}));
      if (!same || grid.children.length !== lanes.length) build();
      track = value.track || track;
      firstFrame = value.first_frame || firstFrame;
      dress();
      shadeLanes();
    }
    if (value.tiled?.url && value.tiled.url !== clipShown) {
      clipShown = value.tiled.url;
      layout = value.layout;
      root.style.setProperty('--ratio', layout.width / layout.height);
      clock.load(clipShown, value.num_frames, value.fps);
      showView();
    }
    root.dataset.status = status;
    root.classList.toggle('has-lanes', grid.children.length > 0);
    root.setAttribute('aria-busy', working ? 'true' : 'false');
    find('.working').hidden = !working;
    if (working) {
      const drawing = lanes.filter(lane => ['done', 'failed'].includes(lane.status)).length;
      find('.what').textContent =
        status === 'queued' ? value.message : `Lane ${Math.min(lanes.length, drawing + 1)} of ${lanes.length}`;
    }
    find('.transport').hidden = !layout;
    sayMasks();
    const finished = status === 'done' || (status === 'failed' && !!value.record);
    find('.after').hidden = !(finished && value.record);
    if (finished && value.record) {
      const tiled = find('a.tiled');
      const record = find('a.record');
      tiled.hidden = !value.tiled;
      if (value.tiled) Object.assign(tiled, {href: value.tiled.url, download: 'wanact-compare.mp4'});
      for (const form of ['gif', 'webp']) {
        find(`a.${form}`).style.visibility = value[form] ? '' : 'hidden'; // they follow, and nothing moves for them
        if (value[form]) Object.assign(find(`a.${form}`), {href: value[form].url, download: `wanact-compare.${form}`});
      }
      Object.assign(record, {href: value.record.url, download: 'wanact-comparison.json'});
      link = value.link;
      find('[data-do=link]').disabled = !link;
      find('.told').textContent = value.link_problem || '';
    }
    say(status === 'failed' || status === 'cancelled' ? value.message : '');
  }
  const isBusy = () => root.isConnected && root.getAttribute('aria-busy') === 'true';
  ignorePresses('#compare-go', isBusy);
  hear('compare-start', () => {
    if (isBusy()) return;
    lanes = [];
    layout = null;
    clipShown = firstFrame = '';
    shades = [];
    for (const side of Object.keys(chosen)) delete chosen[side];
    grid.replaceChildren();
    video.removeAttribute('src');
    video.load();
    big.hidden = true;
    props.value = {status: 'queued', message: 'Waiting for the model…'};
    show();
    if (innerWidth < 900) root.scrollIntoView({block: 'start', behavior: gliding()});
  });
  hear('compare-failed', () => {
    if (!isBusy()) return;
    props.value = {status: 'failed', message: 'The lanes were not flown; nothing else has changed. Try again.'};
    show();
  });
  new MutationObserver(() => {
    const place = /queue:\s*(\d+)\/(\d+)/.exec(
      element.closest('.block').querySelector('[data-testid=status-tracker]')?.textContent || '',
    );
    if (!place || root.dataset.status !== 'queued') return;
    const words = place[1] === '1' ? 'You are next' : `In line: number ${place[1]} of ${place[2]}`;
    if (find('.what').textContent !== words) find('.what').textContent = words;
  }).observe(element.closest('.block'), {childList: true, characterData: true, subtree: true});
  root.addEventListener('click', async event => {
    const what = event.target.closest('[data-do]')?.dataset.do;
    if (what === 'play') clock.toggle();
    else if (what === 'back') clock.step(-1);
    else if (what === 'next') clock.step(1);
    else if (what === 'dismiss') say('');
    else if (what === 'cancel') {
      find('.what').textContent = 'Cancelling…';
      trigger('cancel');
    } else if (what === 'link') {
      const address = new URL(location.pathname, location.origin);
      address.searchParams.set('compare', link);
      history.replaceState(null, '', address);
      try {
        await navigator.clipboard.writeText(address.href);
        find('.told').textContent = 'Link copied (also in the address bar).';
      } catch {
        find('.told').textContent = 'The link is in the address bar.';
      }
    }
  });
  watch('value', show);
  show();
}
