// Where an inverse dynamics model looks, laid over a clip: what lies outside of its mask is dark.
const DARK = 0.78;

const latentOf = frame => (frame < 1 ? 0 : 1 + Math.floor((frame - 1) / 4)); // frames 1 to 4 are latent frame 1

// Masks as the server sends them: {strip, count, rows, columns}, a picture of greys with one mask below the other. Gives
// what darkens a picture that was drawn before: (context, frame, width, height).
export async function maskLayer({strip, count, rows, columns}) {
  const image = new Image();
  image.src = strip;
  await image.decode();
  const shade = Object.assign(document.createElement('canvas'), {width: columns, height: rows * count});
  const paint = shade.getContext('2d', {willReadFrequently: true});
  paint.drawImage(image, 0, 0);
  const pixels = paint.getImageData(0, 0, columns, rows * count);
  for (let i = 0; i < pixels.data.length; i += 4) {
    const away = 255 - pixels.data[i];
    pixels.data.fill(0, i, i + 3);
    pixels.data[i + 3] = Math.round(DARK * away);
  }
  paint.putImageData(pixels, 0, 0);
  return (context, frame, width, height) => {
    const top = rows * Math.min(latentOf(frame), count - 1);
    context.drawImage(shade, 0, top, columns, rows, 0, 0, width, height);
  };
}
