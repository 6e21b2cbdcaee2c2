import {collect, connect} from '../../web/events.js';

export function mount({element, props, trigger, server, watch}) {
  const {hear} = connect(element);
  const root = element.querySelector('.lanes');
  const list = root.querySelector('.list');
  const told = root.querySelector('.told');
  const add = root.querySelector('.add');
  const LETTERS = 'ABCD';
  const TRUTH = {id: 'truth', label: 'ground truth (sample frames, and clips of Data)'};
  let listing = props.listing;
  let own = JSON.stringify(props.value);
  let touched = false; // until then the lanes follow what is best
  const unfolded = new Set();
  const TASKS = {
    gates: 'through gates',
    course: 'a held course',
    circle: 'round a landmark',
    avoid: 'past what stands there',
  };

  const lanesNow = () => (Array.isArray(props.value) ? props.value : []);
  function commit(lanes, redraw) {
    touched = true;
    props.value = lanes;
    own = JSON.stringify(lanes);
    trigger('input');
    if (redraw) draw();
    else summarise();
  }
  function choices() {
    let uploads = [];
    try {
      uploads = JSON.parse(sessionStorage.getItem('wanact-uploads')) || [];
    } catch {
      /* none */
    }
    return [...uploads, ...listing.choices, ...(props.has_truth ? [TRUTH] : [])];
  }
  function differs(lane) {
    return [
      lane.seed != null && `seed ${lane.seed}`,
      lane.guidance != null && `guidance ${lane.guidance}`,
      lane.scale != null && `${lane.scale} × controls`,
      lane.prompt && `“${lane.prompt.slice(0, 30)}”`,
      lane.pilot && `flown by ${nameOf(lane.pilot)}`,
    ]
      .filter(Boolean)
      .join(', ');
  }
  function nameOf(wanted) {
    const [id, task] = [wanted.slice(0, wanted.lastIndexOf(':')), wanted.slice(wanted.lastIndexOf(':') + 1)];
    const pilot = (listing.pilots || []).find(one => one.id === id);
    return `${pilot?.label || `${id} (not here)`}, ${TASKS[task] || task}`;
  }
  function summarise() {
    lanesNow().forEach((lane, i) => {
      const summary = list.children[i]?.querySelector('summary');
      if (summary) summary.textContent = differs(lane) || 'Same settings as other lanes';
    });
    const count = lanesNow().length;
    add.hidden = count >= props.most;
    told.textContent = count < props.fewest ? 'At least two lanes.' : '';
    list.querySelectorAll('.out').forEach(button => {
      button.disabled = count <= props.fewest;
    });
  }
  function draw() {
    const all = choices();
    list.replaceChildren(
      ...lanesNow().map((lane, i) => {
        const box = document.createElement('div');
        const letter = document.createElement('b');
        const select = document.createElement('select');
        const out = document.createElement('button');
        box.className = 'lane';
        letter.textContent = LETTERS[i];
        if (!all.some(choice => choice.id === lane.checkpoint))
          select.append(new Option(`${lane.checkpoint} (not here)`, lane.checkpoint));
        select.append(...all.map(choice => new Option(choice.label, choice.id)));
        select.value = lane.checkpoint;
        select.setAttribute('aria-label', `Lane ${LETTERS[i]}`);
        select.addEventListener('change', () => {
          const lanes = lanesNow().map(one => ({...one}));
          lanes[i].checkpoint = select.value;
          commit(lanes, true);
        });
        Object.assign(out, {type: 'button', className: 'out', textContent: '✕'});
        out.setAttribute('aria-label', `Remove lane ${LETTERS[i]}`);
        out.addEventListener('click', () =>
          commit(
            lanesNow().filter((_, j) => j !== i),
            true,
          ),
        );
        box.append(letter, select, out);
        box.append(settings(lane, i));
        return box;
      }),
    );
    summarise();
  }
  function settings(lane, i) {
    const details = document.createElement('details');
    const summary = document.createElement('summary');
    const grid = document.createElement('div');
    details.open = unfolded.has(i);
    details.addEventListener('toggle', () => (details.open ? unfolded.add(i) : unfolded.delete(i)));
    grid.className = 'settings';
    grid.append(flownBy(lane, i));
    for (const [key, name, kind] of lane.checkpoint === TRUTH.id
      ? []
      : [
          ['seed', 'Seed', {min: 0, max: 2147483647, step: 1}],
          ['guidance', 'Guidance', {min: 1, max: 12, step: 0.1}],
          ['scale', 'Controls ×', {min: 0, max: props.largest_scale, step: 0.1}],
          ['prompt', 'Prompt', null],
        ]) {
      const field = document.createElement('label');
      const input = document.createElement('input');
      if (kind) Object.assign(input, {type: 'number', ...kind});
      else {
        input.type = 'text';
        input.maxLength = 2000;
        field.className = 'wide';
      }
      input.placeholder = 'same as other lanes';
      input.value = lane[key] ?? '';
      input.addEventListener('change', () => {
        const lanes = lanesNow().map(one => ({...one}));
        const value = kind ? (input.value === '' ? null : +input.value) : input.value.trim() || null;
        if (value === null) delete lanes[i][key];
        else lanes[i][key] = value;
        commit(lanes, false);
      });
      field.append(name, input);
      grid.append(field);
    }
    details.append(summary, grid);
    return details;
  }
  // Who flies the lane: the plan, or a pilot, who flies as long from the same first frame.
  function flownBy(lane, i) {
    const field = document.createElement('label');
    const select = document.createElement('select');
    field.className = 'wide';
    const groups = (listing.pilots || []).map(pilot => {
      const group = document.createElement('optgroup');
      group.label = pilot.label;
      group.append(...pilot.tasks.map(task => new Option(nameOf(`${pilot.id}:${task}`), `${pilot.id}:${task}`)));
      return group;
    });
    select.append(new Option('the plan, as other lanes', ''), ...groups);
    if (lane.pilot && ![...select.options].some(option => option.value === lane.pilot))
      select.append(new Option(nameOf(lane.pilot), lane.pilot));
    select.value = lane.pilot || '';
    select.addEventListener('change', () => {
      const lanes = lanesNow().map(one => ({...one}));
      if (select.value) lanes[i].pilot = select.value;
      else delete lanes[i].pilot;
      commit(lanes, false);
    });
    field.append('Flown by', select);
    return field;
  }
  add.addEventListener('click', () => {
    const lanes = lanesNow();
    const used = new Set(lanes.map(lane => lane.checkpoint));
    const next = choices().find(choice => !used.has(choice.id)) || choices()[0];
    commit([...lanes, {checkpoint: next.id}], true);
  });

  function take(items) {
    if (!items?.length) return;
    const lanes = items.map(item => ({checkpoint: item.id}));
    if (lanes.length < props.fewest)
      lanes.push({checkpoint: lanes[0].checkpoint === 'base' ? listing.default : 'base'});
    commit(lanes.slice(0, props.most), true);
  }
  // What the Checkpoints page left. A value set while the component is being made is lost, hence the second look.
  function fetchLanes() {
    const items = collect('compare-lanes');
    if (!items) return;
    take(items);
    const wanted = own;
    setTimeout(() => {
      if (JSON.stringify(props.value) !== wanted) commit(JSON.parse(wanted), true);
    }, 700);
  }
  hear('compare-tray', () => look().then(fetchLanes));

  let looking = false;
  async function look() {
    if (looking || document.hidden) return;
    looking = true;
    try {
      const next = await server.list_checkpoints({});
      if (JSON.stringify(next) !== JSON.stringify(listing)) {
        const isBusy = root.contains(document.activeElement);
        listing = next;
        if (!touched && !isBusy) {
          commit(listing.lanes, true);
          touched = false;
        } else if (!isBusy) draw();
      }
    } catch {
      /* the server is away; the list stands as it is */
    }
    looking = false;
  }
  hear('place', ({place}) => {
    if (place === 'compare') look();
  });
  // A run that is training adds checkpoints: look now and then, while the page is in sight.
  setInterval(() => {
    if (root.offsetParent) look();
  }, 20000);
  watch('value', () => {
    if (JSON.stringify(props.value) !== own) {
      own = JSON.stringify(props.value);
      touched = true;
      draw();
    }
  });
  draw();
  setTimeout(fetchLanes, 300);
}
