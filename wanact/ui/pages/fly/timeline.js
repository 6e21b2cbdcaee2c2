import {CHANNELS, OPPOSITE} from '../../web/channels.js';
import {connect} from '../../web/events.js';

export function mount({element, props, trigger, server, watch}) {
  const {announce, hear} = connect(element);
  const STEPS = props.steps;
  const CAPS = props.caps;
  const STEP_MS = 1000 * props.step_seconds;
  const GROUP = CHANNELS.map(channel => channel.group);
  const peaks = {...props.peaks};
  const table = element.querySelector('table');
  const status = element.querySelector('.status');
  const undoButton = element.querySelector('[data-do=undo]');
  const recordButton = element.querySelector('[data-do=record]');
  const file = element.querySelector('input[type=file]');

  const KEPT = 'wanact-plan'; // the plan outlives a reload of the page, as after a lost connection
  let plan = []; // plan[channel][step]: magnitude, 0 where the control rests
  const history = []; // earlier plans, as JSON
  let own = null; // what this script wrote to props.value last, as JSON
  let recording = null;
  let playhead = null;
  let presetShown = '';

  // ---- the grid -------------------------------------------------------------------------------------------
  const cells = CHANNELS.map(() => []);
  table.setAttribute('aria-label', `Flight plan: ${STEPS} steps by 8 controls`);
  const perSecond = Math.max(1, Math.round(1 / props.step_seconds));
  for (let step = 0; step < STEPS; step += perSecond) {
    const th = document.createElement('th');
    th.colSpan = Math.min(perSecond, STEPS - step);
    th.scope = 'colgroup';
    th.textContent = step * props.step_seconds + ' s';
    table.tHead.rows[0].append(th);
  }
  CHANNELS.forEach((channel, c) => {
    const row = table.tBodies[0].insertRow();
    row.className = channel.group;
    const head = document.createElement('th');
    head.scope = 'row';
    head.innerHTML = `<kbd>${channel.key}</kbd> <span>${channel.label}</span>`;
    row.append(head);
    for (let t = 0; t < STEPS; t++) {
      const cell = row.insertCell();
      Object.assign(cell.dataset, {c, t});
      cell.setAttribute('role', 'gridcell');
      cell.tabIndex = -1;
      if (t % perSecond === perSecond - 1) cell.className = 'second';
      cells[c].push(cell);
    }
  });

  function describe(c, value) {
    if (!value) return 'off';
    return GROUP[c] === 'move' ? `${+value.toPrecision(3)} of the path` : `${+value.toPrecision(3)} degrees`;
  }
  function paint() {
    for (let c = 0; c < 8; c++)
      for (let t = 0; t < STEPS; t++) {
        const value = plan[c][t];
        const cell = cells[c][t];
        const mark = value + '';
        if (cell.dataset.value === mark) continue;
        cell.dataset.value = mark;
        cell.setAttribute('aria-selected', value ? 'true' : 'false');
        cell.setAttribute('aria-label', `${CHANNELS[c].label}, step ${t + 1}: ${describe(c, value)}`);
        cell.style.setProperty('--fill', value ? 35 + 65 * Math.min(1, value / CAPS[c]) + '%' : '0%');
      }
    drawPath();
  }

  // ---- the plan and its value: (steps, 2, 8) of flags and magnitudes ----------------------------------------
  function fromValue(value) {
    return CHANNELS.map((_, c) => Array.from({length: STEPS}, (_, t) => +(value?.[t]?.[1]?.[c] ?? 0)));
  }
  function toValue() {
    return Array.from({length: STEPS}, (_, t) => [plan.map(row => (row[t] > 0 ? 1 : 0)), plan.map(row => row[t])]);
  }
  function snapshot() {
    history.push(JSON.stringify({plan, presetShown}));
    if (history.length > 100) history.shift();
    undoButton.disabled = false;
  }
  function commit(preset) {
    presetShown = preset || '';
    const value = toValue();
    own = JSON.stringify(value);
    props.value = value;
    try {
      sessionStorage.setItem(KEPT, own);
    } catch {
      /* storage is blocked: a reload starts afresh */
    }
    markPreset();
    paint();
    trigger('input');
  }
  function lay(value, message, preset) {
    snapshot();
    plan = fromValue(value);
    sharePeaks();
    commit(preset);
    status.textContent = message;
  }
  // After a plan is laid, the sliders stand at its largest magnitudes, so that moving them scales it.
  function sharePeaks() {
    for (const group of ['move', 'look']) {
      const top = Math.max(...plan.filter((_, c) => GROUP[c] === group).flat());
      if (top > 0) peaks[group] = top;
    }
    announce('plan', {...peaks});
  }
  hear('peaks', next => {
    for (const group of ['move', 'look'])
      if (next[group] !== peaks[group]) {
        const from = peaks[group];
        const to = next[group];
        const scaled = value => (Math.abs(value - from) < 1e-6 * from ? to : +((value * to) / from).toPrecision(6));
        plan = plan.map((row, c) => (GROUP[c] === group ? row.map(scaled) : row));
        peaks[group] = to;
      }
    commit(presetShown);
  });
  function set(c, t, value) {
    plan[c][t] = value;
    if (value) plan[OPPOSITE[c]][t] = 0;
  }

  // ---- the path from above: the same sums as wanact.actions.plan_path ---------------------------------------
  function walk() {
    let x = 0;
    let y = 0;
    let heading = 0;
    let pitch = 0;
    let flown = 0;
    const points = [{x, y, heading, pitch, flown}];
    for (let t = 0; t < STEPS; t++) {
      const [forward, back, left, right, yawLeft, yawRight, pitchUp, pitchDown] = plan.map(row => row[t]);
      const h = (heading * Math.PI) / 180;
      const ahead = (forward - back) * Math.cos((pitch * Math.PI) / 180);
      const aside = right - left;
      x += ahead * Math.sin(h) + aside * Math.cos(h);
      y += ahead * Math.cos(h) - aside * Math.sin(h);
      heading += yawRight - yawLeft;
      pitch += pitchUp - pitchDown;
      flown += Math.hypot(forward - back, right - left);
      points.push({x, y, heading, pitch, flown});
    }
    return points;
  }
  const svg = element.querySelector('svg');
  function drawPath() {
    const points = walk();
    const xs = points.map(p => p.x);
    const ys = points.map(p => p.y);
    const span = Math.max(Math.max(...xs) - Math.min(...xs), Math.max(...ys) - Math.min(...ys), 0.3);
    const cx = (Math.max(...xs) + Math.min(...xs)) / 2;
    const cy = (Math.max(...ys) + Math.min(...ys)) / 2;
    const at = p => [100 + ((p.x - cx) / span) * 120, 112 - ((p.y - cy) / span) * 120];
    const line = points.map(p =>
      at(p)
        .map(v => v.toFixed(1))
        .join(' '),
    );
    svg.querySelector('.plan').setAttribute('d', 'M' + line.join('L'));
    svg.querySelector('.ticks').setAttribute(
      'd',
      points
        .filter((_, i) => i % perSecond === 0)
        .map(p => {
          const [px, py] = at(p);
          const h = (p.heading * Math.PI) / 180;
          return `M${px.toFixed(1)} ${py.toFixed(1)}l${(9 * Math.sin(h)).toFixed(1)} ${(-9 * Math.cos(h)).toFixed(1)}`;
        })
        .join(''),
    );
    const [sx, sy] = at(points[0]);
    svg.querySelector('.start').setAttribute('cx', sx);
    svg.querySelector('.start').setAttribute('cy', sy);
    const now =
      points[recording ? Math.max(0, recording.step) : playhead === null ? STEPS : playhead + 1] || points[STEPS];
    const [dx, dy] = at(now);
    svg
      .querySelector('.drone')
      .setAttribute('transform', `translate(${dx.toFixed(1)} ${dy.toFixed(1)}) rotate(${now.heading.toFixed(1)})`);
    const end = points[STEPS];
    const sign = v => (v > 0 ? '+' : '') + +v.toFixed(0) + '°';
    const words = [
      `distance ${Math.round((100 * end.flown) / (STEPS * props.peaks.move))}%`,
      `turn ${sign(end.heading)}`,
      `tilt ${sign(end.pitch)}`,
    ].join(' · ');
    element.querySelector('figcaption').textContent = 'From above: ' + words;
    svg.setAttribute('aria-label', 'The planned path from above: ' + words);
    element.wanactPath = points;
  }

  // ---- painting with mouse, pen and finger ------------------------------------------------------------------
  let brush = null;
  let stroke = null;
  function under(event) {
    const cell = document.elementFromPoint(event.clientX, event.clientY)?.closest('td[data-c]');
    return cell && table.contains(cell) ? cell : null;
  }
  table.addEventListener('pointerdown', event => {
    const cell = event.target.closest('td[data-c]');
    if (!cell || recording || event.button > 0) return;
    stroke = JSON.stringify(plan);
    snapshot();
    brush = plan[+cell.dataset.c][+cell.dataset.t] ? 0 : 1;
    table.setPointerCapture(event.pointerId);
    dab(cell);
    cell.focus({preventScroll: true});
  });
  table.addEventListener('pointermove', event => {
    const cell = brush !== null && under(event);
    if (cell) dab(cell);
  });
  table.addEventListener('pointerup', () => {
    if (brush !== null) {
      brush = null;
      commit();
    }
  });
  table.addEventListener('pointercancel', () => {
    // the finger scrolled the page instead
    if (brush === null) return;
    brush = null;
    plan = JSON.parse(stroke);
    history.pop();
    undoButton.disabled = !history.length;
    paint();
  });
  function dab(cell) {
    const c = +cell.dataset.c;
    set(c, +cell.dataset.t, brush ? peaks[GROUP[c]] : 0);
    paint();
  }

  // ---- keyboard: one tab stop; arrows are taken only while a cell has the focus -------------------------------
  let cursor = [0, 0];
  cells[0][0].tabIndex = 0;
  function moveTo(c, t) {
    cells[cursor[0]][cursor[1]].tabIndex = -1;
    cursor = [Math.max(0, Math.min(7, c)), Math.max(0, Math.min(STEPS - 1, t))];
    const cell = cells[cursor[0]][cursor[1]];
    cell.tabIndex = 0;
    cell.focus({preventScroll: true});
    cell.scrollIntoView({block: 'nearest', inline: 'nearest'});
  }
  table.addEventListener('focusin', event => {
    const cell = event.target.closest('td[data-c]');
    if (!cell) return;
    cells[cursor[0]][cursor[1]].tabIndex = -1;
    cursor = [+cell.dataset.c, +cell.dataset.t];
    cell.tabIndex = 0;
  });
  table.addEventListener('keydown', event => {
    if (recording || event.ctrlKey || event.metaKey || event.altKey || !event.target.closest('td[data-c]')) return;
    const [c, t] = cursor;
    const step = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0]}[event.key];
    if (step) {
      const on = plan[c][t];
      moveTo(c + step[0], t + step[1]);
      if (event.shiftKey) {
        snapshot();
        set(cursor[0], cursor[1], on ? peaks[GROUP[cursor[0]]] : 0);
        commit();
      }
    } else if (event.key === ' ' || event.key === 'Enter') {
      snapshot();
      set(c, t, plan[c][t] ? 0 : peaks[GROUP[c]]);
      commit();
    } else if (event.key === 'Delete' || event.key === 'Backspace') {
      snapshot();
      set(c, t, 0);
      commit();
    } else if (event.key === 'Home') moveTo(c, 0);
    else if (event.key === 'End') moveTo(c, STEPS - 1);
    else return;
    event.preventDefault();
  });

  // ---- recording: the clock starts with the first key, and a key that is down at any time in a step counts ----
  function record() {
    snapshot();
    plan = fromValue([]);
    recording = {step: -1, held: Array(8).fill(0), started: null};
    element.querySelector('.timeline').classList.add('recording');
    recordButton.setAttribute('aria-pressed', 'true');
    recordButton.querySelector('span').textContent = 'Stop';
    status.textContent = `Hold a key to start recording ${STEPS * props.step_seconds} seconds.`;
    paint();
    announce('take-keys');
  }
  let anyHeld = false;
  hear('held', ({held}) => {
    const first = !anyHeld && held.some(Boolean);
    anyHeld = held.some(Boolean);
    if (!recording) {
      if (first) status.textContent = 'Press Record to put this into the plan.';
      return;
    }
    recording.held = held;
    if (recording.started === null && held.some(Boolean)) {
      recording.started = performance.now();
      status.textContent = 'Recording…';
      recording.timer = setInterval(tick, 15);
      tick();
    } else if (recording.step >= 0 && recording.step < STEPS) {
      stamp(recording.step);
      paint();
    }
  });
  function stamp(t) {
    recording.held.forEach((on, c) => {
      if (on) set(c, t, peaks[GROUP[c]]);
    });
  }
  function tick() {
    const due = Math.floor((performance.now() - recording.started) / STEP_MS);
    while (recording.step < Math.min(due, STEPS - 1)) {
      recording.step++;
      stamp(recording.step);
      markStep(recording.step);
      paint();
    }
    if (due >= STEPS) finish(`Recorded ${STEPS} steps.`);
  }
  function finish(message) {
    if (recording.timer) clearInterval(recording.timer);
    const started = recording.started !== null;
    recording = null;
    element.querySelector('.timeline').classList.remove('recording');
    recordButton.setAttribute('aria-pressed', 'false');
    recordButton.querySelector('span').textContent = 'Record';
    markStep(null);
    if (!started) {
      undo();
      status.textContent = 'Nothing was recorded.';
      return;
    }
    commit();
    status.textContent = message;
  }
  let marked = null;
  function markStep(t) {
    if (t === marked) return;
    for (const row of cells) {
      if (marked !== null) row[marked].classList.remove('now');
      if (t !== null) row[t].classList.add('now');
    }
    marked = t;
  }
  hear('playhead', ({step, track}) => {
    if (recording) return;
    const next = step !== null && track === own ? step : null;
    if (next === playhead) return;
    playhead = next;
    markStep(playhead);
    drawPath();
  });

  // ---- tool bar -------------------------------------------------------------------------------------------
  function undo() {
    if (!history.length) return;
    const last = JSON.parse(history.pop());
    plan = last.plan;
    undoButton.disabled = !history.length;
    sharePeaks();
    commit(last.presetShown);
  }
  function save() {
    const link = document.createElement('a');
    link.href = URL.createObjectURL(new Blob([JSON.stringify(toValue())], {type: 'application/json'}));
    link.download = 'wanact-actions.json';
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    status.textContent = `Saved ${STEPS} steps as wanact-actions.json.`;
  }
  file.addEventListener('change', async () => {
    const chosen = file.files[0];
    file.value = '';
    if (!chosen) return;
    if (chosen.size > props.max_plan_bytes) {
      status.textContent = `${chosen.name} has ${(chosen.size / 2 ** 20).toFixed(1)} MB; a plan has a few kilobytes.`;
      return;
    }
    let answer;
    try {
      answer = await server.read_plan({text: await chosen.text(), steps: STEPS});
    } catch {
      answer = {problem: 'The server did not answer; the plan is unchanged.'};
    }
    if (answer.problem) status.textContent = answer.problem;
    else lay(answer.value, answer.note || `Opened ${chosen.name}.`);
  });
  element.querySelector('.bar').addEventListener('click', event => {
    const what = event.target.closest('[data-do]')?.dataset.do;
    if (what === 'record') recording ? finish('Stopped.') : record();
    else if (!what || recording) return;
    else if (what === 'undo') {
      undo();
      status.textContent = '';
    } else if (what === 'clear') lay([], 'Cleared.');
    else if (what === 'import') file.click();
    else if (what === 'export') save();
  });
  document.addEventListener(
    'keydown',
    event => {
      if (recording && event.key === 'Escape') finish('Stopped.');
    },
    true,
  );

  const presetBar = element.querySelector('.presets');
  for (const name of Object.keys(props.presets)) {
    const button = document.createElement('button');
    button.type = 'button';
    button.dataset.preset = name;
    button.textContent = name;
    presetBar.append(button);
  }
  presetBar.addEventListener('click', event => {
    const name = event.target.dataset.preset;
    if (!name || recording) return;
    lay(props.presets[name], '', name);
  });
  function presetOf(value) {
    const same = JSON.stringify(fromValue(value));
    return Object.keys(props.presets).find(name => JSON.stringify(fromValue(props.presets[name])) === same);
  }
  function markPreset() {
    for (const button of presetBar.children)
      button.setAttribute('aria-pressed', button.dataset.preset === presetShown ? 'true' : 'false');
  }

  // ---- start ------------------------------------------------------------------------------------------------
  function load() {
    plan = fromValue(props.value);
    own = JSON.stringify(toValue());
    presetShown = presetOf(props.value);
    sharePeaks();
    markPreset();
    paint();
  }
  function restore() {
    let kept = null;
    try {
      kept = JSON.parse(sessionStorage.getItem(KEPT));
    } catch {
      /* none, or not readable */
    }
    if (Array.isArray(kept) && kept.length === STEPS && JSON.stringify(kept) !== own) {
      lay(kept, 'Restored your last plan.', presetOf(kept));
    }
  }
  watch('value', () => {
    if (JSON.stringify(props.value) !== own) {
      snapshot();
      load();
    }
  });
  load();
  setTimeout(restore); // a value set while the component is being made is lost
}
