// A clip that plays while it is drawn: in its own time as far as there are frames, and where there is none it waits.
export class Playback {
  constructor(fps) {
    this.fps = fps;
    this.clear();
  }

  clear() {
    for (const image of this.images || []) image?.close?.();
    this.images = [];
    this.position = 0; // in frames
    this.last = null;
  }

  // Pictures, of which the first is number `begin` of the clip.
  add(begin, images) {
    images.forEach((image, i) => {
      this.images[begin + i] = image;
    });
  }

  // The picture to be seen at a time in seconds; null while there is none.
  at(now) {
    const there = this.images.findIndex(image => !image);
    const end = (there < 0 ? this.images.length : there) - 1;
    if (end < 0) return null;
    if (this.last !== null) this.position = Math.min(end, this.position + this.fps * (now - this.last));
    this.last = now;
    return this.images[Math.floor(this.position)];
  }
}
