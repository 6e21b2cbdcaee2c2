// The time-lapse beside the curve: asks for one, shows how far it is, and plays it with the step that it shows.
//   onFly(run), onCancel(), onStep(part | null): the step that is on screen; onParts(parts): those drawn so far.
export function partAt(parts, frame) {
  return parts.findLast(part => part.first <= frame) || parts[0] || null;
}

export function makeFilm(box, {onFly, onCancel, onStep, onParts}) {
  const find = selector => box.querySelector(selector);
  const video = find('video');
  const button = find('[data-do=lapse]');
  let run = null;
  let kept = new Map(); // of each run what was flown last
  let state = {status: 'idle'};
  const isWorking = () => ['queued', 'working'].includes(state.status);

  function show() {
    const mine = state.run === run && isWorking();
    const done = kept.get(run);
    find('.of').textContent = run || 'the run';
    button.textContent = isWorking()
      ? 'Cancel'
      : done?.video
        ? 'Fly every step again'
        : done
          ? 'Show the film'
          : 'Fly every step';
    button.hidden = isWorking() && !mine;
    button.disabled = !run;
    find('.lapse-bar').hidden = !mine;
    const share = Math.round(100 * (state.progress || 0));
    find('.lapse-bar').setAttribute('aria-valuenow', share);
    find('.lapse-bar i').style.width = `${share}%`;
    const failed = state.run === run && ['failed', 'cancelled'].includes(state.status);
    find('.lapse-note').textContent =
      mine || failed ? state.message : done?.left_out ? `${done.left_out} steps between these are left out.` : '';
    const url = done?.video?.url || '';
    video.hidden = find('.lapse-file').hidden = !url;
    if (url && video.getAttribute('src') !== url) {
      video.src = url;
      find('.lapse-file').href = url;
      if (!matchMedia('(prefers-reduced-motion: reduce)').matches) video.play().catch(() => {});
    }
    if (!url) {
      video.pause();
      video.removeAttribute('src');
    }
    onParts(mine ? state.parts || [] : done?.parts || []);
    step();
  }
  function step() {
    const done = kept.get(run);
    const part = done && video.src ? partAt(done.parts, Math.floor(video.currentTime * done.fps + 0.01)) : null;
    find('.lapse-step').textContent = part ? part.label : '';
    onStep(part && (!video.paused || video.currentTime > 0) ? part : null);
  }
  for (const name of ['timeupdate', 'seeked', 'play', 'pause']) video.addEventListener(name, step);
  button.addEventListener('click', () => {
    if (isWorking()) {
      find('.lapse-note').textContent = 'Cancelling…';
      onCancel();
    } else if (run) onFly(run);
  });
  return {
    choose(name) {
      if (name === run) return;
      run = name;
      show();
    },
    take(next) {
      state = next;
      if (state.status === 'done') kept = new Map(kept).set(state.run, state);
      show();
    },
    // What somebody else had drawn: its frames stand on the axis, and the film comes at once when it is asked for.
    recall(name, lapse) {
      if (kept.has(name) || !lapse.parts.length) return;
      kept = new Map(kept).set(name, {...lapse, run: name, video: null});
      if (name === run) show();
    },
    // Show what a step drew.
    seek(id) {
      const done = kept.get(run);
      const part = done?.parts.find(one => one.id === id);
      if (!part || !video.src) return;
      video.pause();
      video.currentTime = (part.first + 0.5) / done.fps;
    },
  };
}
