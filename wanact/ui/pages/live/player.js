import {blobOf} from '../../web/blob.js';

// Frames as they come, shown one by one in their time, and kept for going back.
const MAX_KEPT_BYTES = 96 * 2 ** 20;

// The pictures of one flight, by latent frame: four blobs each. What was flown before this page knew of it is missing.
export class Film {
  constructor(first, start) {
    this.first = first;
    this.start = start;
    this.blobs = [];
    this.size = 0;
    this.prompts = [];
  }
  get end() {
    return this.start + Math.floor(this.blobs.length / 4);
  }
  add(blob) {
    this.blobs.push(blob);
    this.size += blob.size;
    while (this.size > MAX_KEPT_BYTES) {
      for (const old of this.blobs.splice(0, 4)) this.size -= old.size;
      this.start++;
    }
  }
  at(latentFrame) {
    return this.blobs[4 * (latentFrame - this.start) - 1] || this.first;
  }
  cut(latentFrame) {
    const kept = Math.max(0, 4 * (latentFrame - this.start));
    for (const gone of this.blobs.splice(kept)) this.size -= gone.size;
  }
  copy(latentFrame) {
    const other = new Film(this.first, Math.min(this.start, latentFrame));
    other.blobs = this.blobs.slice(0, Math.max(0, 4 * (latentFrame - this.start)));
    other.size = other.blobs.reduce((sum, blob) => sum + blob.size, 0);
    return other;
  }
}

// Plays what has come. Four frames come at a time and are spread over the time until the next four.
export class Player {
  constructor(fps) {
    this.fps = fps;
    this.waiting = [];
    this.decoding = Promise.resolve();
    this.clear();
  }
  clear() {
    for (const frame of this.waiting) frame.image?.close();
    this.waiting = [];
    this.due = 0;
    this.epoch = (this.epoch || 0) + 1;
    this.arrived = []; // times of the newest latent frames
    this.expected = 0;
    this.missed = 0;
  }
  // Seconds that a latent frame takes now.
  get period() {
    const {arrived} = this;
    const own = 4 / this.fps;
    if (arrived.length < 3) return own;
    return Math.min(1.5, Math.max(own, (arrived[arrived.length - 1] - arrived[0]) / 1000 / (arrived.length - 1)));
  }
  take(message) {
    if (this.expected && message.i > this.expected) this.missed += message.i - this.expected;
    this.expected = message.i + message.f.length;
    if (message.k === 0) {
      const now = performance.now();
      const last = this.arrived[this.arrived.length - 1];
      if (now - last > 2000) this.arrived = [];
      this.arrived.push(now);
      if (this.arrived.length > 8) this.arrived.shift();
    }
    const epoch = this.epoch;
    const blobs = message.f.map(blobOf);
    const images = Promise.all(blobs.map(blob => createImageBitmap(blob)));
    this.decoding = this.decoding
      .then(() => images)
      .then(ready => {
        if (epoch !== this.epoch) for (const image of ready) image.close();
        else
          this.waiting.push(
            ...ready.map((image, j) => ({
              image,
              i: message.i + j,
              k: message.k + j,
              t: message.t,
              a: message.a,
              n: message.n,
              attitude: message.attitude,
            })),
          );
      })
      .catch(() => {
        this.missed += blobs.length;
      });
    return blobs;
  }
  // The frame that is due now, or null. One that obeys newer keys waits for none before it: those are left out.
  next(now, shownN) {
    const {waiting} = this;
    if (!waiting.length) return null;
    const newer = waiting.findIndex(frame => frame.n > shownN);
    const answers = newer >= 0 && waiting[newer].k === 0;
    if (answers) for (const left of waiting.splice(0, newer)) left.image.close();
    else if (now < this.due) return null;
    const step = ((1000 * this.period) / 4) * (waiting.length > 7 ? 0.5 : waiting.length > 4 ? 0.85 : 1);
    this.due = answers ? now + step : Math.max(this.due + step, now + step / 2);
    return waiting.shift();
  }
}
