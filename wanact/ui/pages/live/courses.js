import {connect} from '../../web/events.js';

const SVG = 'http://www.w3.org/2000/svg';
const MAP = [100, 60];
const MARGIN = 7;

// The courses that can be flown, their best times, and the form of who has finished one.
export function mount({element, props, trigger, server, watch}) {
  const {announce, hear} = connect(element);
  const root = element.querySelector('.courses');
  const find = selector => root.querySelector(selector);
  const form = find('.claim');
  const field = form.elements.namedItem('name');
  let best = {}; // by course: [{name, seconds, day}]
  let shown = ''; // the course whose table is there
  let finished = null; // the flight that may be entered: {flight, course, seconds}
  let claimed = {}; // what the server is asked
  let own = {}; // what it has answered: course and place

  const cards = new Map(
    props.courses.map(course => {
      const card = make('div', 'course');
      const about = make('span');
      const buttons = make('div', 'buttons');
      const fly = make('button', 'main', 'Fly');
      const times = make('button', '', 'Best times');
      fly.type = times.type = 'button';
      fly.setAttribute('aria-label', `Fly ${course.name}`);
      times.setAttribute('aria-label', `Best times of ${course.name}`);
      fly.addEventListener('click', () => {
        settle();
        for (const [id, one] of cards) one.card.setAttribute('aria-current', id === course.id ? 'true' : 'false');
        announce('fly-course', {id: course.id});
      });
      times.addEventListener('click', () => show(shown === course.id ? '' : course.id));
      times.setAttribute('aria-expanded', 'false');
      buttons.append(fly, times);
      card.dataset.course = course.id;
      card.append(mapOf(course), make('strong', '', course.name), about, buttons);
      find('.list').append(card);
      return [course.id, {card, about, times, course}];
    }),
  );

  function fill() {
    for (const [id, {about, course}] of cards) {
      const first = best[id]?.[0];
      about.textContent = `${course.rings.length} rings · ${first ? `best ${first.seconds.toFixed(2)} s` : 'no time yet'}`;
    }
    if (shown) table();
  }
  function show(course) {
    shown = course;
    for (const [id, {times}] of cards) times.setAttribute('aria-expanded', id === shown ? 'true' : 'false');
    find('.best').hidden = !shown;
    if (shown) table();
    if (shown) refresh();
  }
  function table() {
    const rows = best[shown] || [];
    find('caption').textContent = rows.length
      ? `Best times: ${cards.get(shown).course.name}`
      : `Nobody has finished ${cards.get(shown).course.name} yet.`;
    find('thead').hidden = !rows.length;
    find('tbody').replaceChildren(
      ...rows.map(({name, seconds, day}, k) => {
        const row = make('tr', own.course === shown && own.place === k + 1 ? 'own' : '');
        for (const text of [k + 1, name, `${seconds.toFixed(2)} s`, day]) row.append(make('td', '', String(text)));
        return row;
      }),
    );
  }
  async function refresh() {
    const found = await server.best({}).catch(() => null);
    if (!found?.best) return;
    best = found.best;
    fill();
  }

  function settle() {
    finished = null;
    form.hidden = true;
  }
  function refuse(words) {
    find('.problem').textContent = words;
    find('.problem').hidden = !words;
  }
  hear('course-finished', message => {
    if (!cards.has(message.course)) return;
    finished = message;
    const {name} = cards.get(message.course).course;
    const time = `${name} in ${message.seconds.toFixed(2)} s`;
    find('.won').textContent = message.by
      ? `Finished ${time}. A pilot flew a part of it, so it is entered in no table.`
      : message.place
        ? `Finished ${time}: place ${message.place} on this server.`
        : `Finished ${time}. The table has faster ones.`;
    find('.row').hidden = !message.place;
    refuse('');
    form.hidden = false;
    show(message.course);
  });
  form.addEventListener('submit', event => {
    event.preventDefault();
    if (!finished) return;
    claimed = {flight: finished.flight, name: field.value};
    trigger('claim');
  });
  find('[data-do=skip]').addEventListener('click', settle);
  watch('value', () => {
    const value = props.value || {};
    if (value.problem) {
      refuse(value.problem);
      field.focus();
    } else if (value.course) {
      settle();
      best = value.best;
      own = value;
      show(value.course);
      fill();
      if (!value.place) {
        find('.won').textContent = 'Your name has a better time already.';
        find('.row').hidden = true;
        form.hidden = false;
      }
    }
  });

  root.wanact = {claim: () => claimed};
  if (!cards.size) return; // without a simulator there are none
  root.hidden = false;
  fill();
  refresh(); // what the page was built with is as old as the server
}

function make(name, kind = '', text = '') {
  const node = document.createElement(name);
  if (kind) node.className = kind;
  if (text) node.textContent = text;
  return node;
}

// The course from above: its start, and its rings as strokes across the way.
function mapOf({start, rings}) {
  const places = [start, ...rings];
  const [xs, ys] = [places.map(place => place[0]), places.map(place => place[1])];
  const [left, top] = [Math.min(...xs), Math.min(...ys)];
  const [wide, high] = [Math.max(...xs) - left, Math.max(...ys) - top];
  const scale = Math.min((MAP[0] - 2 * MARGIN) / Math.max(1, wide), (MAP[1] - 2 * MARGIN) / Math.max(1, high));
  const on = ([x, y]) => [MAP[0] / 2 + scale * (x - left - wide / 2), MAP[1] / 2 + scale * (y - top - high / 2)];
  const svg = document.createElementNS(SVG, 'svg');
  svg.setAttribute('viewBox', `0 0 ${MAP[0]} ${MAP[1]}`);
  svg.setAttribute('aria-hidden', 'true');
  const add = (name, attributes) => {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    svg.append(node);
  };
  add('polyline', {points: places.map(place => on(place).join()).join(' ')});
  for (const ring of rings) {
    const [x, y] = on(ring);
    const across = ((ring[2] + 90) * Math.PI) / 180;
    const [dx, dy] = [5 * Math.cos(across), 5 * Math.sin(across)];
    add('line', {x1: x - dx, y1: y - dy, x2: x + dx, y2: y + dy});
  }
  const [cx, cy] = on(start);
  add('circle', {cx, cy, r: 3.5});
  return svg;
}
