import {blobOf} from '../../web/blob.js';

// The simulator's own picture for the same keys, beside the model's, and a needle of how far apart the two are.
const KEPT = 400; // pictures, for going back
const CLOSE = 30; // about three degrees; see `apart` in wanact/media/likeness.py
const LOST = 60;
const UNKNOWN = 'Only in worlds of the simulator: what lies beyond this picture, nobody knows.';
const NOWHERE = 'There is no simulator beside this model.';

// What a needle says, 0 to 100, in a word.
export const wordOf = apart => (apart < CLOSE ? 'close' : apart < LOST ? 'drifting' : 'lost');

export class TruthPane {
  // known: ids of the samples that the simulator knows; null where there is none.
  constructor(root, {known}, keep) {
    Object.assign(this, {root, known});
    const find = selector => root.querySelector(selector);
    this.pane = find('.truth');
    this.canvas = find('.truth canvas');
    this.needle = find('.needle');
    this.box = find('[name=truth]');
    this.why = find('.why');
    this.inFlight = null; // whether the flight's truth is known; null without a flight
    this.clear();
    this.box.addEventListener('change', () => {
      keep('truth', this.box.checked);
      this.place();
      this.onChange?.();
    });
  }

  // Whether the server is asked for pictures.
  get isOn() {
    return this.box.checked && !this.box.disabled;
  }

  // Nothing has been seen of this flight.
  clear() {
    this.seen = new Map(); // by latent frame: {blob, apart}
    this.drawn = -1;
    this.wanted = 0;
    this.epoch = (this.epoch || 0) + 1;
    this.point(null);
  }

  // The flight has gone back to a latent frame.
  cut(latentFrame) {
    for (const t of [...this.seen.keys()]) if (t > latentFrame) this.seen.delete(t);
    this.drawn = -1;
    this.show(latentFrame);
  }

  // Whether it can be had: for the flight, or for the first frame that is chosen (its name; null before one is there).
  offer(inFlight, chosen) {
    const knows = inFlight ?? Boolean(this.known?.includes(chosen));
    this.box.disabled = !knows;
    const why = knows || (inFlight === null && chosen === null) ? '' : this.known ? UNKNOWN : NOWHERE;
    if (this.why.textContent !== why) this.why.textContent = why;
    this.why.hidden = !why;
    this.inFlight = inFlight;
    this.place();
  }

  // The pane stands beside the picture as long as it can have something to show.
  place() {
    const isThere = this.isOn && this.inFlight === true;
    this.pane.hidden = !isThere;
    this.root.classList.toggle('split', isThere);
  }

  take(message) {
    this.seen.set(message.t, {blob: blobOf(message.f), apart: message.apart});
    if (this.seen.size > KEPT) this.seen.delete(this.seen.keys().next().value);
    this.show(this.wanted);
  }

  // The model's picture is of this latent frame: show the newest that is not of a later one.
  async show(latentFrame) {
    this.wanted = latentFrame;
    let newest = -1;
    for (const t of this.seen.keys()) if (t <= latentFrame && t > newest) newest = t;
    if (newest < 0 || newest === this.drawn) return;
    this.drawn = newest;
    const {blob, apart} = this.seen.get(newest);
    const {epoch} = this;
    const image = await createImageBitmap(blob).catch(() => null);
    if (!image) return;
    if (epoch === this.epoch && newest === this.drawn) {
      if (this.canvas.width !== image.width || this.canvas.height !== image.height)
        Object.assign(this.canvas, {width: image.width, height: image.height});
      this.canvas.getContext('2d', {alpha: false}).drawImage(image, 0, 0);
      this.pane.classList.add('ready');
      this.point(apart);
    }
    image.close();
  }

  point(apart) {
    const {needle} = this;
    if (apart === null) this.pane.classList.remove('ready');
    const word = apart === null ? '' : wordOf(apart);
    needle.dataset.word = word;
    needle.style.setProperty('--apart', apart ?? 0);
    needle.setAttribute('aria-valuenow', Math.round(apart ?? 0));
    needle.setAttribute('aria-valuetext', apart === null ? 'not measured yet' : `${Math.round(apart)} of 100: ${word}`);
    needle.querySelector('b').textContent = word;
    needle.querySelector('span').textContent = apart === null ? '' : Math.round(apart);
  }
}
