import {CHANNELS} from './channels.js';

// Analogue sticks under a mouse or a thumb; gamepad.js has those of a gamepad. A value is [8], shares of each channel
// from 0 to 1.
const DEAD_ZONE = 0.14;

// What a stick's position means for its four channels; x to the right and y down, each from -1 to 1.
export function channelsOf(x, y, ahead, back, left, right) {
  const values = CHANNELS.map(() => 0);
  const length = Math.hypot(x, y);
  if (length <= DEAD_ZONE) return values;
  const scale = Math.min(1, (length - DEAD_ZONE) / (1 - DEAD_ZONE)) / length;
  values[y < 0 ? ahead : back] = Math.abs(y) * scale;
  values[x < 0 ? left : right] = Math.abs(x) * scale;
  return values.map(value => (value < 0.06 ? 0 : value)); // a thumb that goes straight ahead drifts a little
}
// ahead, back, left, right
export const MOVE = [0, 1, 2, 3];
export const LOOK = [6, 7, 4, 5];

// Drag anywhere in the circle; letting go centres it.
export function holdStick(circle, channels, onChange) {
  const knob = circle.querySelector('.knob');
  let pointer = null;
  function place(x, y) {
    knob.style.setProperty('--x', x);
    knob.style.setProperty('--y', y);
    circle.classList.toggle('held', pointer !== null);
    onChange(channelsOf(x, y, ...channels));
  }
  function follow(event) {
    if (event.pointerId !== pointer) return;
    const box = circle.getBoundingClientRect();
    const reach = box.width * 0.36;
    const x = (event.clientX - box.left - box.width / 2) / reach;
    const y = (event.clientY - box.top - box.height / 2) / reach;
    const length = Math.max(1, Math.hypot(x, y));
    place(x / length, y / length);
  }
  function release(event) {
    if (pointer === null || (event && event.pointerId !== pointer)) return;
    pointer = null;
    place(0, 0);
  }
  circle.addEventListener('pointerdown', event => {
    if (pointer !== null || event.button > 0) return;
    pointer = event.pointerId;
    if (circle.hasPointerCapture) circle.setPointerCapture(pointer);
    event.preventDefault(); // no selection, and the focus is taken below
    circle.closest('[tabindex]').focus({preventScroll: true});
    follow(event);
  });
  circle.addEventListener('pointermove', follow);
  for (const name of ['pointerup', 'pointercancel', 'lostpointercapture']) circle.addEventListener(name, release);
  circle.addEventListener('contextmenu', event => event.preventDefault());
  window.addEventListener('blur', () => release());
  return {release: () => release()};
}
