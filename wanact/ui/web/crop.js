import {whenThere} from './appear.js';
import {connect} from './events.js';

const ALMOST = 0.08; // a picture of nearly the clip's shape loses too little to be asked about
const STEP = 0.05;

// How a picture of one ratio (width by height) is cut for a clip of another: along which axis, and what share is kept.
export function cutOf(picture, clip) {
  const kept = Math.min(picture / clip, clip / picture);
  return {axis: picture < clip ? 'y' : 'x', kept, isCut: kept < 1 - ALMOST};
}

// Where an image lies that is fitted whole into a box: left, top, width and height.
export function fittedIn(box, ratio) {
  const width = Math.min(box.width, box.height * ratio);
  const height = width / ratio;
  return {left: box.left + (box.width - width) / 2, top: box.top + (box.height - height) / 2, width, height};
}

export function mount({element, props, watch}) {
  const {hear} = connect(element);
  const words = element.querySelector('.cut');
  let frame = null; // where the picture is shown: a component of its own, which may be built after this one
  let ratio = props.ratio;
  let address = null; // of the picture that is cut now

  // Over the picture: what is left of it, between two shades.
  const veil = document.createElement('div');
  veil.className = 'crop-veil';
  veil.hidden = true;
  const shades = [document.createElement('div'), document.createElement('div')];
  const kept = document.createElement('div');
  kept.className = 'crop-kept';
  kept.tabIndex = 0;
  kept.setAttribute('role', 'slider');
  kept.setAttribute('aria-label', 'Part of the picture that is flown');
  kept.setAttribute('aria-valuemin', 0);
  kept.setAttribute('aria-valuemax', 100);
  veil.append(shades[0], kept, shades[1]);

  const picture = () => frame?.querySelector('img');
  const place = () => (typeof props.value === 'number' ? props.value : 0.5);
  const cut = () => {
    const image = picture();
    return image?.naturalWidth ? cutOf(image.naturalWidth / image.naturalHeight, ratio) : {isCut: false};
  };
  function draw() {
    const {axis, kept: share, isCut} = cut();
    veil.hidden = words.hidden = !isCut;
    if (!isCut) return;
    const image = picture();
    const outer = frame.getBoundingClientRect();
    const box = fittedIn(image.getBoundingClientRect(), image.naturalWidth / image.naturalHeight);
    Object.assign(veil.style, {
      left: `${box.left - outer.left - frame.clientLeft}px`,
      top: `${box.top - outer.top - frame.clientTop}px`,
      width: `${box.width}px`,
      height: `${box.height}px`,
    });
    veil.dataset.axis = axis;
    const before = (1 - share) * place();
    shades[0].style.flexBasis = `${100 * before}%`;
    kept.style.flexBasis = `${100 * share}%`;
    shades[1].style.flexBasis = `${100 * (1 - share - before)}%`;
    const percent = Math.round(100 * place());
    kept.setAttribute('aria-valuenow', percent);
    kept.setAttribute('aria-orientation', axis === 'y' ? 'vertical' : 'horizontal');
    kept.setAttribute('aria-valuetext', `${percent}% from the ${axis === 'y' ? 'top' : 'left'}`);
    const shape = axis === 'y' ? 'taller' : 'wider';
    words.textContent = `The picture is ${shape} than the flight: the bright part is used. Drag it to choose.`;
  }
  function move(to) {
    const next = Math.min(1, Math.max(0, to));
    if (next === place()) return;
    props.value = next;
    draw();
  }

  let grip = null; // {pointer, from, start}
  kept.addEventListener('pointerdown', event => {
    if (event.button > 0) return;
    event.preventDefault();
    kept.focus({preventScroll: true});
    kept.setPointerCapture(event.pointerId);
    grip = {from: cut().axis === 'y' ? event.clientY : event.clientX, start: place()};
  });
  kept.addEventListener('pointermove', event => {
    if (!grip) return;
    const {axis, kept: share} = cut();
    const length = axis === 'y' ? veil.clientHeight : veil.clientWidth;
    const moved = (axis === 'y' ? event.clientY : event.clientX) - grip.from;
    move(grip.start + moved / ((1 - share) * length));
  });
  for (const name of ['pointerup', 'pointercancel', 'lostpointercapture'])
    kept.addEventListener(name, () => {
      grip = null;
    });
  kept.addEventListener('keydown', event => {
    const to = {
      ArrowUp: place() - STEP,
      ArrowLeft: place() - STEP,
      ArrowDown: place() + STEP,
      ArrowRight: place() + STEP,
      Home: 0,
      End: 1,
    }[event.key];
    if (to === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    move(to);
  });

  // Another picture is cut in its middle. What a tab has kept of its own comes after the picture.
  document.addEventListener('wanact:scene', ({detail}) => {
    if (detail.scene !== props.scene) return;
    const url = detail.frame?.url || '';
    if (address !== null && url !== address && place() !== 0.5) props.value = 0.5;
    address = url;
    draw();
  });
  hear('shape', wanted => {
    ratio = wanted.ratio;
    draw();
  });
  watch('value', draw);
  draw();
  whenThere(`#${props.scene}frame`, found => {
    frame = found;
    frame.append(veil);
    new MutationObserver(draw).observe(frame, {
      subtree: true,
      childList: true,
      attributes: true,
      attributeFilter: ['src'],
    });
    frame.addEventListener('load', draw, true);
    new ResizeObserver(draw).observe(frame);
    draw();
  });
}
