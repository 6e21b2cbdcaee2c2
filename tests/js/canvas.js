// As much of a canvas as the warp needs, in plain numbers: pictures are drawn with the nearest pixel, no edge is smooth.
export class Canvas {
  constructor() {
    this._size = [300, 150];
    this.clear();
  }

  get width() {
    return this._size[0];
  }
  set width(value) {
    this._size[0] = value;
    this.clear();
  }
  get height() {
    return this._size[1];
  }
  set height(value) {
    this._size[1] = value;
    this.clear();
  }
  clear() {
    this.data = new Uint8ClampedArray(4 * this.width * this.height);
    this.context = new Context(this);
  }
  getContext() {
    return this.context;
  }
}

class Context {
  constructor(canvas) {
    this.canvas = canvas;
    this.matrix = [1, 0, 0, 1, 0, 0];
  }

  setTransform(...matrix) {
    this.matrix = matrix;
  }

  drawImage(image, ...box) {
    const [a, b, c, d, e, f] = this.matrix;
    if (b || c) throw new Error('only scaled and shifted pictures are drawn');
    if (box.length < 4) box = [box[0], box[1], image.width, image.height];
    const [fromX, fromY, fromWidth, fromHeight, x, y, width, height] =
      box.length === 4 ? [0, 0, image.width, image.height, ...box] : box;
    const source = image.data;
    for (let row = 0; row < this.canvas.height; row++) {
      for (let column = 0; column < this.canvas.width; column++) {
        const across = ((column + 0.5 - e) / a - x) / width;
        const down = ((row + 0.5 - f) / d - y) / height;
        if (across < 0 || across >= 1 || down < 0 || down >= 1) continue;
        const i = Math.floor(fromX + across * fromWidth);
        const j = Math.floor(fromY + down * fromHeight);
        if (i < 0 || j < 0 || i >= image.width || j >= image.height) continue;
        const pixel = 4 * (j * image.width + i);
        this.canvas.data.set(source.subarray(pixel, pixel + 4), 4 * (row * this.canvas.width + column));
      }
    }
  }

  getImageData(x, y, width, height) {
    const data = new Uint8ClampedArray(4 * width * height);
    for (let row = 0; row < height; row++) {
      const start = 4 * ((y + row) * this.canvas.width + x);
      data.set(this.canvas.data.subarray(start, start + 4 * width), 4 * row * width);
    }
    return {data, width, height};
  }
}

// A canvas for who asks the document for one.
export function installDocument() {
  globalThis.document = {createElement: () => new Canvas()};
}

// A picture that is bright where `light` of its place is 255; places go from -1 to 1, to the right and down.
export function paint(width, height, light) {
  const canvas = Object.assign(new Canvas(), {width, height});
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      const value = light((2 * column + 1) / width - 1, (2 * row + 1) / height - 1);
      canvas.data.set([value, value, value, 255], 4 * (row * width + column));
    }
  }
  return canvas;
}

// Where the light of a picture is, on average, from -1 to 1.
export function centre(canvas) {
  let sum = 0;
  let x = 0;
  let y = 0;
  for (let i = 0; i < canvas.data.length; i += 4) {
    const pixel = i / 4;
    const light = canvas.data[i];
    sum += light;
    x += light * ((2 * (pixel % canvas.width) + 1) / canvas.width - 1);
    y += light * ((2 * Math.floor(pixel / canvas.width) + 1) / canvas.height - 1);
  }
  return {x: x / sum, y: y / sum};
}
