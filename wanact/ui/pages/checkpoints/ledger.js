import {announceToAll, connect, leave} from '../../web/events.js';
import {gliding} from '../../web/motion.js';
import {goTo, readTray, TRAY_LETTERS, TRAY_MAX, writeTray} from '../compare/tray.js';
import {makeDetail} from './checkpoint_detail.js';
import {makeCurve} from './curve.js';
import {makeFilm} from './film.js';
import {makePilotCurve} from './pilot_curve.js';
import {makeRows} from './rows.js';

export function mount({element, props, trigger, server}) {
  const {announce, hear} = connect(element);
  const root = element.querySelector('.ledger');
  const find = selector => root.querySelector(selector);
  const STATES = ['verified', 'whole', 'unsummed', 'weightless', 'damaged'];
  const NOTES_KEY = 'wanact-notes';
  const UPLOADS_KEY = 'wanact-uploads';
  const EVERY_MS = 5000;
  let items = [];
  let byId = new Map();
  let runs = [];
  let version = '';
  let notesWithRuns = false;
  const hidden = new Set();
  let query = '';
  let only = 'all';
  let sort = ['saved', -1];
  let selected = null;
  let followed = null; // the step that takes the selection's place, because that was the latest
  let tray = readTray();
  let curves = {};
  let pilotCurves = {};
  let uploads = [];
  let ownNotes = {};
  try {
    ownNotes = JSON.parse(localStorage.getItem(NOTES_KEY)) || {};
  } catch {
    /* none, or storage is blocked */
  }

  async function ask(name, message) {
    try {
      return await server[name](message || {});
    } catch {
      return {problem: 'The server did not answer; try again.'};
    }
  }
  const colour = number => `var(--s${number % 6})`;
  const clock = seconds =>
    seconds
      ? new Date(seconds * 1000).toLocaleString([], {
          month: 'short',
          day: 'numeric',
          hour: '2-digit',
          minute: '2-digit',
          hour12: false,
        })
      : '';
  const percent = share => (share === null ? '–' : `${Math.round(100 * share)}%`);
  const decimal = value => (value === null ? '–' : value.toFixed(2));

  // ---- what there is ------------------------------------------------------------------------------------------
  function take(listing) {
    if (listing.same) return;
    if (listing.problem) {
      say(listing.problem);
      return;
    }
    version = listing.version;
    runs = listing.runs;
    notesWithRuns = listing.notes_with_runs;
    const columns = listing.columns;
    const best = new Set(columns.best);
    const latest = new Set(columns.latest);
    const before = new Map(items.map(item => [item.id, item]));
    items = columns.run.map((number, i) => {
      const run = runs[number];
      const step = columns.step[i];
      const marks = [
        ...(best.has(i)
          ? [{kind: 'best', text: run.pilot || columns.by[i] === 'control' ? 'best' : 'lowest loss'}]
          : []),
        ...(latest.has(i) && step !== null ? [{kind: 'latest', text: 'latest'}] : []),
      ];
      const card = columns.cards[i] || null;
      return {
        id: `${run.name}/${columns.name[i]}`,
        run: run.name,
        number,
        step,
        loss: columns.loss[i],
        card,
        control: card?.control ?? null,
        worst: card?.worst ?? null,
        gain: card?.gain ?? null,
        sharpness: card?.sharpness ?? null,
        saved: columns.saved[i],
        bytes: columns.bytes[i],
        state: STATES[columns.state[i]],
        problem: columns.problems[i] || '',
        note: columns.notes[i] || null,
        marks,
        isPilot: run.pilot,
        success: columns.success[i]?.share ?? null,
        successOf: columns.success[i]?.of ?? '',
        injection: run.injection,
        title: step === null ? run.name : `${run.name} · step ${step.toLocaleString('en')}`,
      };
    });
    follow(before);
    index();
  }
  // What was selected as the latest of its run follows to the step that is the latest now; nothing else moves.
  function follow(before) {
    const was = before.get(selected);
    if (!was || !isMarked(was, 'latest')) return;
    const now = items.find(item => item.run === was.run && isMarked(item, 'latest'));
    if (now && now.id !== was.id) followed = now.id;
  }
  // A pilot flies inside a model and is none: nothing can be drawn with it, nor is it beside a model.
  const isFlown = item => !item.isPilot && !['damaged', 'weightless'].includes(item.state);
  const isMarked = (item, kind) => item.marks.some(mark => mark.kind === kind);
  function index() {
    items = [
      ...items.filter(item => item.run !== 'upload'),
      ...uploads.map(upload => ({
        id: upload.id,
        run: 'upload',
        number: runs.length,
        step: null,
        loss: null,
        card: null,
        control: null,
        worst: null,
        gain: null,
        sharpness: null,
        saved: null,
        bytes: upload.bytes,
        state: 'verified',
        problem: '',
        note: null,
        marks: [],
        injection: upload.injection,
        title: upload.label,
      })),
    ];
    byId = new Map(items.map(item => [item.id, item]));
    root.dataset.status = 'ready';
    showRuns();
    showRows();
    loadCurves();
    markPicked();
    detail.refresh(byId.get(selected));
    if (selected && !byId.has(selected)) {
      selected = null;
      detail.show(null);
    }
    if (!selected) select(firstChoice(), false);
    else if (followed) select(followed, false);
    followed = null;
  }
  function firstChoice() {
    const newest = items.filter(item => item.saved && !item.isPilot).sort((a, b) => b.saved - a.saved)[0];
    return (items.find(item => item.run === newest?.run && isMarked(item, 'best')) || newest || items[0])?.id || null;
  }
  function say(text) {
    const empty = find('.empty');
    empty.hidden = !text;
    empty.textContent = text || '';
  }

  // ---- notes: with the run where the server lets us, else in this browser ---------------------------------------
  function noteOf(item) {
    const withRun = notesWithRuns && item.run !== 'upload';
    const kept = (withRun ? item.note : ownNotes[item.id]) || {};
    return {
      star: !!kept.star,
      note: kept.note || '',
      where: withRun ? 'Kept with the run.' : 'Kept in this browser only.',
    };
  }
  async function keepNote(item, {star, note}) {
    if (notesWithRuns && item.run !== 'upload') {
      const answer = await ask('keep_note', {id: item.id, star, note});
      if (!answer.problem) item.note = star || note ? {star, note} : null;
      showRows();
      detail.refresh(item);
      if (answer.problem) {
        const remark = find('.kept');
        if (remark) remark.textContent = answer.problem;
      }
      return;
    }
    if (star || note) ownNotes[item.id] = {star, note};
    else delete ownNotes[item.id];
    try {
      localStorage.setItem(NOTES_KEY, JSON.stringify(ownNotes));
    } catch {
      /* kept until the page is closed */
    }
    showRows();
    detail.refresh(item);
  }

  // ---- runs and curves --------------------------------------------------------------------------------------------
  function showRuns() {
    find('.runs').replaceChildren(
      ...runs.map((run, number) => {
        const button = document.createElement('button');
        const count = items.filter(item => item.number === number).length;
        button.type = 'button';
        button.style.setProperty('--c', colour(number));
        button.disabled = !!run.problem;
        button.setAttribute('aria-pressed', hidden.has(run.name) || run.problem ? 'false' : 'true');
        button.textContent = run.problem ? `${run.name}: not followed` : `${run.name} · ${count}`;
        button.title =
          run.problem || [run.base && `on ${run.base}`, run.injection, run.stage].filter(Boolean).join(', ');
        button.dataset.run = run.name;
        return button;
      }),
    );
  }
  find('.runs').addEventListener('click', event => {
    const name = event.target.dataset.run;
    if (!name) return;
    hidden.has(name) ? hidden.delete(name) : hidden.add(name);
    event.target.setAttribute('aria-pressed', hidden.has(name) ? 'false' : 'true');
    showRows();
    loadCurves();
  });
  const visibleRuns = () => runs.filter(run => !hidden.has(run.name) && !run.problem);
  async function loadCurves() {
    const names = visibleRuns()
      .slice(0, 12)
      .map(run => run.name);
    const answer = await ask('read_curves', {runs: names});
    if (answer.problem) return;
    curves = answer.curves;
    pilotCurves = answer.pilots;
    drawCurve();
    for (const [run, lapse] of Object.entries(answer.lapses)) film.recall(run, lapse);
  }
  function drawCurve() {
    const shown = new Set(visibleRuns().map(run => run.name));
    curve.show({
      series: runs
        .map((run, number) => ({name: run.name, colour: colour(number), curve: curves[run.name]}))
        .filter(one => one.curve && shown.has(one.name)),
      points: items
        .filter(item => item.step !== null && shown.has(item.run) && !item.isPilot)
        .map(item => ({
          id: item.id,
          run: item.run,
          step: item.step,
          loss: item.loss,
          control: item.control,
          worst: item.worst,
          quick: !!item.card?.quick,
          colour: colour(item.number),
          best: isMarked(item, 'best'),
          bad: item.state === 'damaged',
          label: labelOf(item),
        })),
    });
    drawPilots(shown);
  }
  function drawPilots(shown) {
    const series = runs
      .map((run, number) => ({name: run.name, colour: colour(number), curve: pilotCurves[run.name]}))
      .filter(one => one.curve && shown.has(one.name));
    find('.pilots').hidden = !series.length;
    pilotCurve.show({
      series,
      points: items
        .filter(item => item.isPilot && item.step !== null && shown.has(item.run))
        .map(item => ({
          id: item.id,
          run: item.run,
          step: item.step,
          success: item.success,
          colour: colour(item.number),
          best: isMarked(item, 'best'),
          label: labelOf(item),
        })),
    });
  }

  function labelOf(item) {
    const words = [
      item.title,
      item.loss === null ? '' : `loss ${item.loss.toFixed(4)}`,
      item.success == null ? '' : `${percent(item.success)} of ${item.successOf} done`,
      ...item.marks.map(mark => mark.text),
      item.state === 'damaged' ? 'damaged' : '',
    ];
    const line = words.filter(Boolean).join(' · ');
    if (item.control === null) return line;
    const quick = item.card.quick ? 'quick: ' : '';
    return `${line}\n${quick}control ${percent(item.control)} of ${item.card.of}, worst channel ${percent(item.worst)}`;
  }

  // ---- rows -------------------------------------------------------------------------------------------------------
  function matches(item) {
    if (hidden.has(item.run)) return false;
    const note = noteOf(item);
    if (only === 'marked' && !item.marks.length) return false;
    if (only === 'carded' && !item.card) return false;
    if (only === 'starred' && !note.star) return false;
    if (only === 'noted' && !note.note) return false;
    if (only === 'flyable' && !isFlown(item)) return false;
    if (only === 'pilots' && !item.isPilot) return false;
    if (only === 'damaged' && item.state !== 'damaged') return false;
    if (!query) return true;
    const text = [
      item.id,
      item.title,
      item.step,
      item.injection,
      item.state,
      ...item.marks.map(mark => mark.text),
      note.note,
      note.star ? 'starred' : '',
    ]
      .join(' ')
      .toLowerCase();
    return query.split(/\s+/).every(word => text.includes(word));
  }
  function showRows() {
    const [key, way] = sort;
    const last = way > 0 ? Infinity : -Infinity;
    const value = item => (key === 'run' ? item.run : (item[key] ?? last));
    const list = items.filter(matches).sort((a, b) => {
      const one = value(a);
      const other = value(b);
      return (
        (one < other ? -way : one > other ? way : 0) || (b.saved ?? 0) - (a.saved ?? 0) || (b.step ?? 0) - (a.step ?? 0)
      );
    });
    rows.show(list);
    find('.count').textContent =
      list.length === items.length
        ? `${items.length.toLocaleString('en')} checkpoint${items.length === 1 ? '' : 's'}`
        : `${list.length.toLocaleString('en')} of ${items.length.toLocaleString('en')}`;
    find('.grid').hidden = !list.length;
    say(
      list.length
        ? ''
        : items.length
          ? 'Nothing matches. Clear the search, or show all runs.'
          : 'There are no checkpoints yet. Train one, or upload one above.',
    );
    for (const head of root.querySelectorAll('[role=columnheader]')) {
      const button = head.querySelector('button');
      if (button?.dataset.sort === key) head.setAttribute('aria-sort', way > 0 ? 'ascending' : 'descending');
      else head.removeAttribute('aria-sort');
    }
  }
  function fill(item) {
    const row = document.createElement('div');
    const note = noteOf(item);
    const picked = tray.findIndex(one => one.id === item.id);
    row.className = 'row';
    row.setAttribute('role', 'row');
    row.dataset.id = item.id;
    row.setAttribute('aria-selected', item.id === selected ? 'true' : 'false');
    row.style.setProperty('--c', colour(item.number));
    const cell = (name, ...content) => {
      const node = document.createElement('span');
      node.className = name;
      node.setAttribute('role', 'gridcell');
      node.append(...content);
      row.append(node);
      return node;
    };
    const box = document.createElement('input');
    Object.assign(box, {
      type: 'checkbox',
      checked: picked >= 0,
      tabIndex: -1,
      disabled: picked < 0 && !isFlown(item),
    });
    box.setAttribute('aria-label', `Compare ${item.title}`);
    cell('c-pick', box);
    const step = cell('c-step');
    const number = document.createElement('b');
    number.textContent =
      item.step === null ? (item.run === 'upload' ? item.title : 'exported') : item.step.toLocaleString('en');
    step.append(number);
    for (const {kind, text} of item.marks)
      step.append(Object.assign(document.createElement('span'), {className: 'mark ' + kind, textContent: text}));
    if (note.star)
      step.append(
        Object.assign(document.createElement('span'), {className: 'star', textContent: '★', title: 'starred'}),
      );
    if (note.note)
      step.append(
        Object.assign(document.createElement('span'), {className: 'mark', textContent: 'note', title: note.note}),
      );
    cell('c-run', document.createElement('i'), item.run);
    const about = item.card?.quick ? '≈ ' : '';
    const control = cell('c-control', item.control === null ? '–' : about + percent(item.control));
    if (item.card) control.title = `${item.card.quick ? 'A quick measurement: ' : ''}of ${item.card.of}`;
    cell('c-worst', percent(item.worst));
    cell('c-gain', decimal(item.gain));
    cell('c-sharpness', decimal(item.sharpness));
    row.classList.toggle('carded', !!item.card);
    const success = item.success == null ? '–' : `${percent(item.success)} done`;
    const loss = cell('c-loss', item.isPilot ? success : item.loss === null ? '–' : item.loss.toFixed(4));
    loss.classList.toggle('of-pilot', item.isPilot);
    if (item.successOf) loss.title = `of ${item.successOf}`;
    cell('c-saved', clock(item.saved));
    const state = document.createElement('span');
    state.className = 'state ' + item.state;
    state.textContent = item.state === 'unsummed' ? 'no sums' : item.state === 'weightless' ? 'no weights' : item.state;
    if (item.problem) state.title = item.problem;
    cell('c-state', state);
    return row;
  }

  // ---- selecting and marking for comparison -------------------------------------------------------------------------
  function select(id, byHand) {
    if (!id || !byId.has(id)) return;
    selected = id;
    markPicked();
    rows.bring(id);
    film.choose(byId.get(id).isPilot ? null : (runs[byId.get(id).number]?.name ?? null));
    detail.show(byId.get(id));
    props.value = id;
    trigger('input');
    if (byHand && innerWidth < 1000) find('.detail').scrollIntoView({block: 'nearest', behavior: gliding()});
  }
  function mark(id) {
    const item = byId.get(id);
    if (!item) return;
    if (tray.some(one => one.id === id)) tray = tray.filter(one => one.id !== id);
    else if (item.isPilot) return tell(`${item.title} is a pilot; on Compare it can fly a lane.`);
    else if (!isFlown(item)) return tell(`${item.title} cannot be flown, so it cannot be compared.`);
    else if (tray.length === TRAY_MAX) return tell('Four can be compared; take one out first.');
    else tray = [...tray, {id, label: item.title}];
    writeTray(tray);
  }
  function pickPoint(id) {
    if (!tray.some(one => one.id === id) || selected === id) mark(id);
    select(id, false);
  }
  function tell(text) {
    const note = find('.tray .told');
    if (note) note.textContent = text;
  }
  function markPicked() {
    curve.mark(
      tray.map(one => one.id),
      selected,
    );
    pilotCurve.mark(selected);
    rows.redraw();
    const bar = find('.tray');
    const build = (name, text, more) => Object.assign(document.createElement(name), {textContent: text, ...more});
    bar.hidden = !tray.length;
    bar.replaceChildren(
      ...tray.map((one, i) => {
        const chip = build('span', '', {className: 'chip'});
        const out = build('button', '✕', {type: 'button'});
        out.setAttribute('aria-label', `Take ${one.label} out`);
        out.dataset.out = one.id;
        chip.append(build('b', TRAY_LETTERS[i]), one.label, out);
        return chip;
      }),
      build('span', '', {className: 'told'}),
      build('button', tray.length < 2 ? 'Pick one more to compare' : `Compare ${tray.length}`, {
        type: 'button',
        className: 'go',
        disabled: tray.length < 2,
      }),
    );
    bar.querySelector('.told').setAttribute('role', 'status');
  }
  find('.tray').addEventListener('click', event => {
    if (event.target.dataset.out) mark(event.target.dataset.out);
    else if (event.target.matches('.go')) {
      leave('compare-lanes', tray);
      announceToAll('compare-tray', {});
      goTo('compare');
    }
  });
  hear('tray', ({items: next}) => {
    tray = next;
    markPicked();
    detail.refresh(byId.get(selected));
  });

  function act(what, item, more) {
    if (what === 'fly' || what === 'live') {
      leave('checkpoint-' + what, {id: item.id, label: item.title});
      announceToAll('choose-checkpoint', {place: what});
      goTo(what);
    } else if (what === 'pilot') {
      leave('live-pilot', item.id);
      goTo('live');
    } else if (what === 'mark') mark(item.id);
    else if (what === 'verified') {
      if (more.problem) item.problem = more.problem;
      else {
        item.state = more.state;
        item.problem = more.why || '';
      }
      showRows();
      detail.show(item);
    }
  }

  // ---- put together -------------------------------------------------------------------------------------------------
  const curve = makeCurve(find('.plot'), {
    onPick: pickPoint,
    onFrame: id => {
      select(id, false);
      film.seek(id);
    },
  });
  const film = makeFilm(find('.film'), {
    onFly: run => announce('lapse-fly', {run}),
    onCancel: () => announce('lapse-cancel', {}),
    onStep: part => curve.play(part ? part.step : null),
    onParts: parts =>
      curve.showFrames(
        parts.map(part => ({...part, url: part.picture, colour: colour(byId.get(part.id)?.number ?? 0)})),
      ),
  });
  const pilotCurve = makePilotCurve(find('.pilots .plot'), {onPick: id => select(id, true)});
  hear('lapse', ({state}) => film.take(state));
  const rows = makeRows(find('.grid'), {fill, onSelect: id => select(id, true), onMark: mark});
  const detail = makeDetail(find('.detail'), {
    ask,
    act,
    noteOf,
    keepNote,
    isPicked: id => tray.some(one => one.id === id),
    others: item =>
      items
        .filter(other => other.id !== item.id)
        .sort((a, b) => (a.run === item.run ? 0 : 1) - (b.run === item.run ? 0 : 1) || (b.saved ?? 0) - (a.saved ?? 0))
        .slice(0, 300),
  });
  find('.log').addEventListener('change', event => curve.setLog(event.target.checked));
  find('.smooth').addEventListener('input', event => curve.setSmoothing(+event.target.value));
  find('.search input').addEventListener('input', event => {
    query = event.target.value.trim().toLowerCase();
    showRows();
  });
  find('.only').addEventListener('change', event => {
    only = event.target.value;
    showRows();
  });
  find('.sort').addEventListener('change', event => {
    const [key, way] = event.target.value.split(',');
    sort = [key, +way];
    showRows();
  });
  find('.header').addEventListener('click', event => {
    const key = event.target.dataset.sort;
    if (!key) return;
    sort = [key, sort[0] === key ? -sort[1] : ['loss', 'run'].includes(key) ? 1 : -1];
    showRows();
  });

  // ---- uploads: ids of this tab, which nobody else can guess ----------------------------------------------------------
  function rememberUploads() {
    try {
      sessionStorage.setItem(UPLOADS_KEY, JSON.stringify(uploads));
    } catch {
      /* known until the page is closed */
    }
  }
  hear('uploaded', ({upload}) => {
    uploads = [upload, ...uploads.filter(one => one.id !== upload.id)];
    rememberUploads();
    index();
    select(upload.id, true);
  });
  async function recallUploads() {
    let kept = [];
    try {
      kept = JSON.parse(sessionStorage.getItem(UPLOADS_KEY)) || [];
    } catch {
      /* none */
    }
    if (!kept.length) return;
    const answer = await ask('find_uploads', {ids: kept.map(one => one.id)});
    uploads = answer.uploads || [];
    rememberUploads();
  }

  // A run that is training adds checkpoints: look again now and then, while the page is in sight.
  let looking = false;
  async function look() {
    if (looking || document.hidden || (version && !root.offsetParent)) return;
    looking = true;
    take(await ask('list_shelf', {version}));
    looking = false;
  }
  setInterval(look, EVERY_MS);
  hear('place', ({place}) => {
    if (place === 'checkpoints') look();
  });
  detail.show(null);
  recallUploads().then(look);
}
