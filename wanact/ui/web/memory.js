import {saysAll, startIn} from './address.js';
import {announceToAll, placeOf} from './events.js';

const MOST_CHARACTERS = 1_500_000; // of a picture: the browser keeps about five million of a tab
const LONGEST_SIDE = 1280; // as the server makes it

export function mount({element, props, trigger}) {
  const KEY = `wanact-scene-${props.scene}`;
  const place = placeOf(element);
  const tell = (name, detail) => announceToAll(name, {scene: props.scene, ...detail});

  function read() {
    try {
      return JSON.parse(sessionStorage.getItem(KEY));
    } catch {
      return null; // none, or storage is blocked
    }
  }
  function write(kept) {
    try {
      sessionStorage.setItem(KEY, JSON.stringify(kept));
    } catch {
      /* no room, or blocked: a reload starts afresh */
    }
  }

  // Others are told, and those that come later can see it.
  document.addEventListener('wanact:restored', ({detail: {scene}}) => {
    if (scene === props.scene) element.querySelector('span').dataset.restored = '';
  });

  let newest = 0;
  let start; // the sample in the address
  const pictures = {url: '', data: null}; // the one that was read last
  async function pictureAt(url) {
    if (url !== pictures.url) Object.assign(pictures, {url, data: url ? await dataOf(url) : null});
    return pictures.data;
  }
  document.addEventListener('wanact:scene', async ({detail: {scene, frame, prompt, sample, crop}}) => {
    if (scene !== props.scene) return;
    const number = ++newest;
    const picture = sample ? null : await pictureAt(frame?.url || '').catch(() => null);
    if (number !== newest) return; // something else has been chosen meanwhile
    write({sample: sample || null, picture, prompt, crop});
    tell('kept', {picture: picture ? `${picture.length} ${picture.slice(-40)}` : ''});
    if (place && sample !== start) announceToAll('start', {place, sample});
    start = sample;
  });

  // What the address names goes before what this tab has kept.
  const kept = read();
  const named = startIn(location.search, place);
  const wanted = props.samples.includes(named) && named !== kept?.sample ? {sample: named} : kept;
  if (!wanted || saysAll(location.search, place)) return tell('restored');
  setTimeout(() => {
    // a value set while the component is being made is lost
    props.value = wanted;
    trigger('restore');
  });
}

// A picture of this page as a data URL, byte for byte if it is small enough.
async function dataOf(url) {
  if (url.startsWith('data:') && url.length <= MOST_CHARACTERS) return url;
  const blob = await (await fetch(url)).blob();
  const whole = await new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = reject;
    reader.readAsDataURL(blob);
  });
  return whole.length <= MOST_CHARACTERS ? whole : smaller(blob);
}

async function smaller(blob) {
  const image = await createImageBitmap(blob);
  const scale = Math.min(1, LONGEST_SIDE / Math.max(image.width, image.height));
  const canvas = document.createElement('canvas');
  canvas.width = Math.round(image.width * scale);
  canvas.height = Math.round(image.height * scale);
  canvas.getContext('2d').drawImage(image, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL('image/jpeg', 0.9);
}
