import {CHANNELS, OPPOSITE} from './channels.js';

// Turns keyboard, mouse, touch and screen-reader presses inside `root` into a set of held channels.
// Keys count only while the focus is inside `root`; text fields and shortcuts keep theirs.
export function holdKeys(root, onChange) {
  const byCode = new Map(CHANNELS.map((channel, i) => [channel.code, i]));
  const keys = new Set();
  const pointers = new Map();
  const latched = new Set();
  const buttons = [...root.querySelectorAll('[data-channel]')];
  let last = '';

  function update() {
    const pressed = CHANNELS.map(() => 0);
    for (const source of [keys, pointers.values(), latched]) for (const i of source) pressed[i] = 1;
    const held = pressed.map((on, i) => (on && !pressed[OPPOSITE[i]] ? 1 : 0));
    if (pressed.join() === last) return;
    last = pressed.join();
    for (const button of buttons) {
      const i = +button.dataset.channel;
      button.classList.toggle('on', !!held[i]);
      button.classList.toggle('cancelled', !!pressed[i] && !held[i]);
      button.setAttribute('aria-pressed', held[i] ? 'true' : 'false');
    }
    onChange(held, pressed);
  }
  // A Mac tells of no release while Meta is down: what is still held afterwards repeats.
  const isMeta = event => event.key === 'Meta' || /^(Meta|OS)(Left|Right)$/.test(event.code);
  function dropKeys() {
    keys.clear();
    update();
  }
  function releaseAll() {
    keys.clear();
    pointers.clear();
    latched.clear();
    update();
  }

  root.addEventListener('keydown', event => {
    if (event.code === 'Escape') {
      releaseAll();
      document.activeElement.blur();
      return;
    }
    if (event.metaKey || isMeta(event)) return dropKeys();
    if (event.ctrlKey || event.altKey || event.isComposing) return;
    if (event.target.matches('input, textarea, select, [contenteditable=true]')) return;
    const channel = byCode.get(event.code);
    if (channel === undefined) return;
    event.preventDefault(); // arrows must not scroll the page while they fly
    // Repeats count, too: a key that is down and was let go of (by Meta, another window, a busy page) is held again.
    keys.add(channel);
    update();
  });
  // On the window, because the focus may have moved on by the time the key comes up.
  const onKeyUp = event => {
    if (!root.isConnected) return window.removeEventListener('keyup', onKeyUp);
    if (isMeta(event)) dropKeys();
    else if (keys.delete(byCode.get(event.code))) update();
  };
  window.addEventListener('keyup', onKeyUp);
  root.addEventListener('focusout', event => {
    if (!root.contains(event.relatedTarget)) dropKeys();
  });
  window.addEventListener('blur', releaseAll);
  document.addEventListener('wanact:place', releaseAll); // another page has come into sight
  document.addEventListener('visibilitychange', () => {
    if (document.hidden) releaseAll();
  });

  root.addEventListener('pointerdown', event => {
    const button = event.target.closest('[data-channel]');
    if (!button || event.button > 0) return;
    if (button.hasPointerCapture) button.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, +button.dataset.channel);
    update();
  });
  for (const name of ['pointerup', 'pointercancel', 'lostpointercapture'])
    root.addEventListener(name, event => {
      if (pointers.delete(event.pointerId)) update();
    });
  root.addEventListener('contextmenu', event => {
    if (event.target.closest('[data-channel]')) event.preventDefault();
  });
  // Enter or Space on a focused key, or a screen reader's press, has no duration: it latches.
  root.addEventListener('click', event => {
    const button = event.target.closest('[data-channel]');
    if (!button || event.detail !== 0) return;
    const channel = +button.dataset.channel;
    if (!latched.delete(channel)) latched.add(channel);
    update();
  });
  return {releaseAll};
}
