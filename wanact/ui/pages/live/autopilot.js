import {outline} from './rings.js';

// The autopilot: who is asked to fly, its hands on the sticks, and what it flies to, as rings over the picture.
const WIDTH = 1000; // units of the overlay
const FULL = [0.05, 0.05, 0.05, 0.05, 3, 3, 3, 3];
const SEEN = 0.08; // of a full deflection, from where a lamp shows it
const KEPT = 40; // latent frames
const SVG = 'http://www.w3.org/2000/svg';
const TASKS = {
  gates: 'Fly through gates',
  course: 'Hold a course',
  circle: 'Circle a landmark',
  avoid: 'Fly round what stands there',
};
const DOES = {course: 'holds a course', circle: 'circles', avoid: 'flies round what stands there'};

// Where the sticks are for an action [8], each from -1 to 1, x to the right and y down.
export function sticksOf(action) {
  const share = action.map((value, i) => value / FULL[i]);
  return {move: [share[3] - share[2], share[1] - share[0]], look: [share[5] - share[4], share[7] - share[6]]};
}

// What the pill says of a task, {by, next, of, done, asks}, that the pilot was asked for. A course counts its own rings.
export function wordsOf(asked, task, isCourse = false) {
  if (!task.by) return 'You fly; the autopilot waits';
  if (!task.asks) return 'Autopilot looks for room';
  if (asked === 'gates' && isCourse) return 'Autopilot flies the rings';
  if (asked === 'gates') return `Autopilot: gate ${task.next} of ${task.of} · ${task.done} flown`;
  return `Autopilot ${DOES[asked]}` + (task.done ? ` · ${task.done} done` : '');
}

export class Autopilot {
  // onAsk is told whom a visitor asks, as "id:task", '' for nobody; restore puts the lamps back to what is held.
  constructor(root, {lamps, onAsk, restore}) {
    Object.assign(this, {root, lamps, restore});
    const find = selector => root.querySelector(selector);
    this.overlay = find('.aims');
    this.pill = find('.auto');
    this.select = find('[name=pilot]');
    this.knows = find('.knows');
    this.knobs = {move: find('.stick.move'), look: find('.stick.look')};
    this.caps = [...root.querySelectorAll('.cap')];
    this.wanted = ''; // what another page asked for, until the list has it
    this.land();
    this.select.addEventListener('change', () => {
      this.wait();
      onAsk(this.asked);
    });
  }

  // Whom the visitor wants.
  get asked() {
    return this.select.value;
  }

  // Whether the frame on the screen was flown by it.
  get flies() {
    return Boolean(this.shown?.by);
  }

  // Who can be asked: [{id, label, tasks}].
  list(pilots) {
    const before = this.wanted || this.asked;
    const groups = pilots.map(pilot => {
      const group = document.createElement('optgroup');
      group.label = pilot.label;
      group.append(...pilot.tasks.map(task => new Option(TASKS[task] || task, `${pilot.id}:${task}`)));
      return group;
    });
    this.select.replaceChildren(new Option('Off: you fly', ''), ...groups);
    this.choose(before);
  }

  // Choose a pilot by "id:task", or a pilot alone with its first task.
  choose(wanted) {
    const options = [...this.select.options].map(option => option.value);
    const found = options.find(value => value === wanted || (wanted && value.startsWith(`${wanted}:`)));
    this.wanted = found === undefined ? wanted : '';
    this.select.value = found ?? '';
    return found ?? '';
  }

  // Somebody was asked in flight, and is on the way.
  wait() {
    this.clear();
    if (!this.inFlight) return;
    this.pill.hidden = !this.asked;
    this.pill.textContent = this.asked ? 'The autopilot is coming…' : '';
    this.knows.hidden = true;
  }

  start(ratio, isCourse) {
    this.land();
    this.inFlight = true;
    this.isCourse = isCourse;
    this.ratio = ratio;
    const height = Math.round(WIDTH / ratio);
    this.overlay.setAttribute('viewBox', `${-WIDTH / 2} ${-height / 2} ${WIDTH} ${height}`);
    this.wait();
  }

  land() {
    this.inFlight = false;
    this.clear();
    this.pill.hidden = this.knows.hidden = true;
  }

  // Nothing is known of what it does.
  clear() {
    this.moments = new Map(); // by latent frame
    this.shown = null;
    this.pose = null;
    this.overlay.replaceChildren();
    this.overlay.toggleAttribute('hidden', true); // an SVG has no `hidden` of its own
    this.letGo();
  }

  // The server's answer to whom was asked for.
  answer(message) {
    this.at = message;
    if (message.problem) this.select.value = '';
    this.wait();
    if (!message.pilot) return;
    this.pill.textContent = 'The autopilot is at the sticks';
    this.knows.textContent = message.knows
      ? 'The pilot is told by the simulator where the drone is; it does not see the picture.'
      : 'Nobody knows what lies here: the pilot reckons its way from its sticks, and what it flies to hangs in the air.';
    this.knows.hidden = false;
  }

  // What was flown to in a latent frame.
  take(message) {
    if (!message.task || !this.at?.pilot) return;
    this.moments.set(message.t, {by: message.by, ...message.task});
    if (this.moments.size > KEPT) this.moments.delete(this.moments.keys().next().value);
  }

  // This frame is shown.
  see(frame) {
    const moment = this.moments.get(frame.t);
    if (!moment) {
      if (this.flies) this.letGo();
      this.shown = null;
      return;
    }
    this.pose = moment.poses[frame.k] || this.pose;
    if (this.shown === moment) return;
    this.shown = moment;
    const text = wordsOf(this.at.asked, moment, this.isCourse);
    if (this.pill.textContent !== text) this.pill.textContent = text;
    if (moment.by) this.hold(frame.a);
    else this.letGo();
  }

  hold(action) {
    this.holds = true;
    for (const [name, [x, y]] of Object.entries(sticksOf(action))) {
      this.knobs[name].classList.add('piloted');
      this.place(name, x, y);
    }
    action.forEach((value, i) => {
      const isOn = value / FULL[i] > SEEN;
      this.lamps[i].classList.toggle('on', isOn);
      this.caps.find(cap => +cap.dataset.channel === i)?.classList.toggle('piloted', isOn);
    });
  }
  letGo() {
    if (!this.holds) return;
    this.holds = false;
    for (const name of ['move', 'look']) {
      this.knobs[name].classList.remove('piloted');
      if (!this.knobs[name].classList.contains('held')) this.place(name, 0, 0);
    }
    for (const cap of this.caps) cap.classList.remove('piloted');
    this.restore();
  }
  place(name, x, y) {
    const knob = this.knobs[name].querySelector('.knob');
    const length = Math.max(1, Math.hypot(x, y));
    knob.style.setProperty('--x', (x / length).toFixed(3));
    knob.style.setProperty('--y', (y / length).toFixed(3));
  }

  // Over the picture as it is drawn now; in a course its own rings are there already.
  draw() {
    const rings = this.pose && this.shown && !this.isCourse ? this.shown.rings : [];
    this.overlay.toggleAttribute('hidden', !rings.length);
    while (this.overlay.childElementCount < 2 * rings.length) {
      const path = document.createElementNS(SVG, 'path');
      path.setAttribute('class', this.overlay.childElementCount % 2 ? 'ring' : 'casing');
      this.overlay.append(path);
    }
    [...this.overlay.children].forEach((path, k) => {
      const ring = rings[Math.floor(k / 2)];
      const line = ring ? outline(this.pose, ring, this.shown.size) : [];
      const points = line.map(([x, y]) => `${(WIDTH * x).toFixed(1)} ${(WIDTH * y).toFixed(1)}`);
      path.setAttribute('d', points.length ? `M${points.join('L')}Z` : '');
      path.classList.toggle('next', k < 2);
    });
  }
}
