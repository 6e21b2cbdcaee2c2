import {ahead, bearing, outline} from './rings.js';

// The course that is flown: its rings over the picture, the next one with its distance and the way to it, and the time.
const WIDTH = 1000; // units of the overlay
const EDGE = 0.42; // where an arrow stands, in halves of the picture
const SVG = 'http://www.w3.org/2000/svg';

export class Course {
  constructor(root) {
    this.root = root;
    this.overlay = root.querySelector('.rings');
    this.pill = root.querySelector('.race');
    this.land();
  }

  // The flight is no course, or over.
  land() {
    this.course = null;
    this.poses = new Map(); // by latent frame
    this.pose = null;
    this.hide(true);
  }

  hide(isHidden) {
    this.overlay.toggleAttribute('hidden', isHidden); // an SVG has no `hidden` of its own
    this.pill.hidden = isHidden;
  }

  start(course, ratio) {
    this.land();
    if (!course) return;
    this.course = course;
    this.ratio = ratio;
    Object.assign(this, {next: 0, seconds: 0, counts: true, isDone: false, pose: course.pose});
    const height = Math.round(WIDTH / ratio);
    this.overlay.setAttribute('viewBox', `${-WIDTH / 2} ${-height / 2} ${WIDTH} ${height}`);
    this.overlay.replaceChildren(
      ...course.rings.flatMap((_, number) =>
        ['casing', 'ring'].map(kind => part('path', {class: kind, 'data-ring': number})),
      ),
      part('path', {class: 'arrow', d: 'M44 0 L-12 -26 L2 0 L-12 26 Z'}),
      part('text', {class: 'away', 'text-anchor': 'middle'}),
    );
    this.hide(false);
    this.say();
    this.draw(null);
  }

  // Where the drone is in the frames of a latent frame, and how the race stands then.
  take(message) {
    if (!this.course) return;
    this.poses.set(message.t, message);
    if (this.poses.size > 40) this.poses.delete(this.poses.keys().next().value);
  }

  finish(seconds) {
    this.seconds = seconds;
    this.isDone = true;
    this.say();
  }

  // Something was taken back: what is flown from here on does not count.
  spoil() {
    if (!this.course) return;
    this.counts = this.isDone;
    this.poses.clear();
    this.say();
  }

  // This frame is shown.
  see(frame) {
    const moment = this.course && this.poses.get(frame.t);
    if (!moment) return;
    this.pose = moment.poses[frame.k] || this.pose;
    if (frame.k === 3 || moment.next < this.next) {
      const {next, seconds, counts} = moment;
      Object.assign(this, {next, counts: this.counts && counts, seconds: this.isDone ? this.seconds : seconds});
      this.say();
    }
  }

  say() {
    const {rings} = this.course;
    const time = `${this.seconds.toFixed(this.isDone ? 2 : 1)} s`;
    const text = this.isDone
      ? `Finished in ${time}`
      : !this.counts
        ? 'Taken back: this flight no longer counts'
        : `Ring ${Math.min(this.next + 1, rings.length)} of ${rings.length} · ${time}`;
    if (this.pill.textContent !== text) this.pill.textContent = text;
  }

  // Over the picture as it is drawn now, which may lead the frame.
  draw(offset) {
    if (!this.course) return;
    const {course, next} = this;
    const pose = offset ? ahead(this.pose, offset) : this.pose;
    for (const path of this.overlay.querySelectorAll('[data-ring]')) {
      const number = +path.dataset.ring;
      const isAhead = number >= next && number < next + 3;
      const line = isAhead ? outline(pose, course.rings[number], course.size) : [];
      path.setAttribute(
        'd',
        line.length ? `M${line.map(([x, y]) => `${(WIDTH * x).toFixed(1)} ${(WIDTH * y).toFixed(1)}`).join('L')}Z` : '',
      );
      path.classList.toggle('next', number === next);
    }
    this.point(pose);
  }

  point(pose) {
    const {course, next, ratio} = this;
    const arrow = this.overlay.querySelector('.arrow');
    const away = this.overlay.querySelector('.away');
    const ring = course.rings[next];
    arrow.style.display = away.style.display = ring ? '' : 'none';
    if (!ring) return;
    const {distance, at, turn} = bearing(pose, ring, course.size, ratio);
    away.textContent = `${Math.round(distance)} m`;
    if (at) {
      arrow.style.display = 'none';
      const top = Math.min(...outline(pose, ring, course.size).map(([, y]) => y));
      place(away, WIDTH * at[0], Math.max((-0.5 * WIDTH) / ratio + 110, WIDTH * top - 16));
      return;
    }
    // On an ellipse within the picture, in the direction to turn to.
    const [cos, sin] = [Math.cos(turn), Math.sin(turn)];
    const [x, y] = [EDGE * WIDTH * cos, ((EDGE - 0.1) * WIDTH * sin) / ratio];
    arrow.setAttribute(
      'transform',
      `translate(${x.toFixed(1)} ${y.toFixed(1)}) rotate(${((turn * 180) / Math.PI).toFixed(1)})`,
    );
    place(away, x - 90 * cos, y - 60 * sin + 12);
  }
}

function part(name, attributes) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}
function place(node, x, y) {
  node.setAttribute('x', x.toFixed(1));
  node.setAttribute('y', y.toFixed(1));
}
