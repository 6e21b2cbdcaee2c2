import {wantsStillness} from '../../web/motion.js';

// One clock for all lanes: a single clip that holds every lane side by side plays out of sight, and each of its frames
// is cut into the lanes' canvases. So the lanes cannot drift apart.
export function makeClock(video, {onFrame, onPlaying}) {
  let fps = 16;
  let count = 1;
  let frame = 0;
  let loop = !wantsStillness();
  let wanted = null;
  const clamp = number => Math.max(0, Math.min(count - 1, number));

  function show(number) {
    frame = clamp(number);
    onFrame(frame);
  }
  // The time that belongs to the picture on screen, where the browser tells; the playhead's own else.
  function follow() {
    if (!video.requestVideoFrameCallback) return;
    video.requestVideoFrameCallback((_, {mediaTime}) => {
      if (wanted === null || video.seeking === false) show(Math.round(mediaTime * fps));
      follow();
    });
  }
  follow();
  if (!video.requestVideoFrameCallback)
    (function tick() {
      if (!video.isConnected) return;
      if (!video.paused) show(Math.floor(video.currentTime * fps + 0.01));
      requestAnimationFrame(tick);
    })();
  video.addEventListener('seeked', () => {
    if (wanted === null) return;
    const reached = wanted;
    wanted = null;
    show(Math.floor(video.currentTime * fps + 0.01));
    if (queued !== null && queued !== reached) {
      const next = queued;
      queued = null;
      seek(next);
    }
  });
  video.addEventListener('loadeddata', () => show(Math.floor(video.currentTime * fps + 0.01)));
  for (const name of ['play', 'pause', 'ended'])
    video.addEventListener(name, () => onPlaying(!video.paused && !video.ended));
  let queued = null;
  // While one place is being found the last one asked for waits, so that dragging never piles up.
  function seek(number) {
    number = clamp(number);
    if (wanted !== null) {
      queued = number;
      return;
    }
    wanted = number;
    video.currentTime = (number + 0.5) / fps;
  }
  return {
    load(url, numFrames, rate) {
      const keep = video.src ? frame : 0;
      const playing = video.src ? !video.paused : !wantsStillness();
      count = numFrames;
      fps = rate;
      wanted = queued = null;
      video.src = url;
      video.loop = loop;
      video.addEventListener(
        'loadeddata',
        () => {
          if (keep) seek(keep);
          if (playing) video.play().catch(() => {});
        },
        {once: true},
      );
    },
    toggle() {
      video.paused ? video.play().catch(() => {}) : video.pause();
    },
    pause() {
      video.pause();
    },
    seek(number) {
      video.pause();
      seek(number);
    },
    step(by) {
      video.pause();
      seek((queued ?? wanted ?? frame) + by);
    },
    setLoop(on) {
      loop = on;
      video.loop = on;
    },
    setSpeed(rate) {
      video.playbackRate = rate;
      video.defaultPlaybackRate = rate;
    },
    get frame() {
      return frame;
    },
    get count() {
      return count;
    },
    get fps() {
      return fps;
    },
  };
}
