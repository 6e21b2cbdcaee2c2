// Timewarp: draws a picture as a camera would see it that has turned, tilted or moved a little since. Turning and tilting
// are exact (the camera sees 75 degrees across); moving would need distances, so it is a zoom and a shift.
const HALF_FIELD = (37.5 * Math.PI) / 180;
const STRIPS = 24;
const MARGIN = 0.2;
const ZOOM_PER_PATH = 0.5;
const SHIFT_PER_PATH = 0.6; // a full key, 0.05 of the path: 2.5% nearer, 3% aside
export const AXES = ['yaw', 'pitch', 'ahead', 'aside'];
const LIMITS = {yaw: 8, pitch: 6, ahead: 0.15, aside: 0.1}; // degrees, and shares of the path
const STILL = {yaw: 0.02, pitch: 0.02, ahead: 0.0004, aside: 0.0003};

// Net motion of an action [8] on the four axes: degrees and path lengths in a latent frame.
export function motionOf(action) {
  return {
    yaw: action[5] - action[4],
    pitch: action[6] - action[7],
    ahead: action[0] - action[1],
    aside: action[3] - action[2],
  };
}
export const isStill = offset => AXES.every(axis => Math.abs(offset[axis]) < STILL[axis]);
export const atRest = () => ({yaw: 0, pitch: 0, ahead: 0, aside: 0});

export class Warper {
  constructor(canvas, options) {
    this.canvas = canvas;
    this.context = canvas.getContext('2d', {alpha: false, ...options});
    this.layers = [
      document.createElement('canvas'),
      document.createElement('canvas'),
      document.createElement('canvas'),
    ];
    this.padded = null; // the picture whose margins stand in the first layer
  }

  draw(image, offset) {
    const {width, height} = this.canvas;
    this.context.setTransform(1, 0, 0, 1, 0, 0);
    if (!offset || isStill(offset)) return this.context.drawImage(image, 0, 0, width, height);
    let layer = this.pad(image);
    if (Math.abs(offset.yaw) >= STILL.yaw) layer = this.turn(layer, this.layers[1], (offset.yaw * Math.PI) / 180, true);
    if (Math.abs(offset.pitch) >= STILL.pitch)
      layer = this.turn(layer, this.layers[2], (-offset.pitch * Math.PI) / 180, false);
    const zoom = Math.exp(ZOOM_PER_PATH * offset.ahead);
    const shift = -SHIFT_PER_PATH * offset.aside * width;
    this.context.setTransform(zoom, 0, 0, zoom, width / 2 + zoom * shift, height / 2);
    this.context.drawImage(layer, -layer.width / 2, -layer.height / 2);
  }

  // The picture with mirrored margins: what comes into sight is unknown, and this looks least wrong.
  pad(image) {
    const {width, height} = this.canvas;
    const layer = this.layers[0];
    const left = Math.round(width * MARGIN);
    const top = Math.round(height * MARGIN);
    if (this.padded === image && layer.width === width + 2 * left) return layer;
    for (const one of this.layers)
      if (one.width !== width + 2 * left || one.height !== height + 2 * top) {
        one.width = width + 2 * left;
        one.height = height + 2 * top;
      }
    const context = layer.getContext('2d', {alpha: false});
    for (const column of [-1, 0, 1])
      for (const row of [-1, 0, 1]) {
        context.setTransform(
          column ? -1 : 1,
          0,
          0,
          row ? -1 : 1,
          left + (column === 1 ? 2 * width : 0),
          top + (row === 1 ? 2 * height : 0),
        );
        context.drawImage(image, 0, 0, width, height);
      }
    this.padded = image;
    return layer;
  }

  // A camera that turns: each strip of what it sees now comes from another place, and is as much taller or lower.
  turn(layer, target, angle, across) {
    const context = target.getContext('2d', {alpha: false});
    const {width, height} = target;
    const focal = this.canvas.width / 2 / Math.tan(HALF_FIELD);
    const length = across ? width : height;
    const breadth = across ? height : width;
    const cos = Math.cos(angle);
    const sin = Math.sin(angle);
    const last = length / 2;
    const source = x =>
      Math.min(last, Math.max(-last, (focal * (x * cos + focal * sin)) / Math.max(1, focal * cos - x * sin)));
    for (let strip = 0; strip < STRIPS; strip++) {
      const from = length * (strip / STRIPS - 0.5);
      const to = length * ((strip + 1) / STRIPS - 0.5);
      const first = source(from);
      const size = Math.max(0.5, source(to) - first);
      const scale = (focal * cos - ((from + to) / 2) * sin) / focal;
      const wide = breadth * scale;
      const rest = (breadth - wide) / 2;
      const step = to - from + 0.7; // a little over the next one, or seams show
      if (across) context.drawImage(layer, first + last, 0, size, breadth, from + last, rest, step, wide);
      else context.drawImage(layer, 0, first + last, breadth, size, rest, from + last, wide, step);
    }
    return target;
  }
}

// How far the picture leads the newest frame: what is held now moves on at once, what the frame obeys has been drawn,
// and the rest fades, so that generated frames take over without a step back.
export class Timewarp {
  constructor() {
    this.on = true;
    this.offset = atRest();
    this.gains = {yaw: 1, pitch: 1, ahead: 1, aside: 1}; // learnt in flight; 0 where it cannot predict
  }

  // Both actions [8]; the time that a latent frame takes, and that an answer takes, in seconds.
  advance(seconds, wanted, shown, period, latency) {
    const lead = motionOf(wanted);
    const drawn = motionOf(shown);
    const fade = Math.exp(-seconds / (this.on ? Math.max(0.5, 2 * latency, 2 * period) : 0.08));
    for (const axis of AXES) {
      const moved = this.on ? (this.gains[axis] * (lead[axis] - drawn[axis]) * seconds) / period : 0;
      this.offset[axis] = Math.min(LIMITS[axis], Math.max(-LIMITS[axis], (this.offset[axis] + moved) * fade));
    }
    return this.offset;
  }

  rest() {
    this.offset = atRest();
  }
  predicts(axis) {
    return this.on && this.gains[axis] > 0.05;
  }
}
