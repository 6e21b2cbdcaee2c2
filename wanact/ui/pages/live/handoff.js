import {AXES, atRest, motionOf, Warper} from './warp.js';

// Is the prediction any good? When a key goes down from rest, the picture of that moment is kept small. Once the frames
// that obey the key have moved as far as one action goes, they are compared with it: as it was, and warped as far.
// The better it fits, the less the handoff shows; the gain that fits best is used from then on.
const TRIED = [0, 0.5, 1, 1.5, 2];
const SMALL = [80, 48];
const EDGE = 8;

export class Handoff {
  constructor(timewarp) {
    this.timewarp = timewarp;
    const canvas = () => Object.assign(document.createElement('canvas'), {width: SMALL[0], height: SMALL[1]});
    this.kept = new Warper(canvas(), {willReadFrequently: true});
    this.tried = new Warper(canvas(), {willReadFrequently: true});
    this.trial = null;
    this.results = []; // {axis, plain, warped, gain}
  }

  // A key went down: `image` is what is seen, `n` the number of the message that tells the server.
  begin(image, wanted, shown, n) {
    const motion = motionOf(wanted);
    const axes = AXES.filter(axis => motion[axis]);
    this.trial = null;
    if (!image || axes.length !== 1 || AXES.some(axis => motionOf(shown)[axis])) return;
    this.kept.draw(image, null);
    this.kept.padded = null;
    this.trial = {axis: axes[0], n};
  }

  // A frame is shown; `isLast` of its latent frame.
  see(frame, isLast) {
    const trial = this.trial;
    if (!trial || frame.n < trial.n) return;
    const motion = motionOf(frame.a);
    const others = AXES.filter(axis => axis !== trial.axis);
    if (!motion[trial.axis] || others.some(axis => motion[axis])) this.trial = null;
    else if (isLast) {
      this.trial = null;
      this.compare(trial.axis, motion[trial.axis], frame.image);
    }
  }

  compare(axis, moved, image) {
    this.tried.draw(image, null);
    const arrived = this.pixels();
    const errors = TRIED.map(gain => {
      this.tried.padded = null;
      this.tried.draw(this.kept.canvas, {...atRest(), [axis]: gain * moved});
      return difference(arrived, this.pixels());
    });
    const used = this.timewarp.gains[axis];
    this.tried.padded = null;
    this.tried.draw(this.kept.canvas, {...atRest(), [axis]: used * moved});
    this.results.push({axis, plain: errors[0], warped: difference(arrived, this.pixels()), gain: used});
    if (this.results.length > 400) this.results.shift();
    const best = TRIED[errors.indexOf(Math.min(...errors))];
    this.timewarp.gains[axis] = 0.6 * used + 0.4 * best;
  }

  pixels() {
    return this.tried.context.getImageData(EDGE, EDGE, SMALL[0] - 2 * EDGE, SMALL[1] - 2 * EDGE).data;
  }

  // Mean error of the handoff, of 255, without and with the warp.
  summary() {
    const mean = name => this.results.reduce((sum, one) => sum + one[name], 0) / this.results.length;
    return this.results.length ? {trials: this.results.length, plain: mean('plain'), warped: mean('warped')} : null;
  }
}

function difference(one, other) {
  let sum = 0;
  for (let i = 0; i < one.length; i += 4)
    sum += Math.abs(one[i] - other[i]) + Math.abs(one[i + 1] - other[i + 1]) + Math.abs(one[i + 2] - other[i + 2]);
  return sum / (one.length * 0.75);
}
