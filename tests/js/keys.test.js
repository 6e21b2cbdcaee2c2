import assert from 'node:assert/strict';
import {beforeEach, test} from 'node:test';
import {CHANNELS, OPPOSITE} from '../../wanact/ui/web/channels.js';
import {holdKeys} from '../../wanact/ui/web/keys.js';

let root;
let told;
let keys;
beforeEach(() => {
  globalThis.window = new EventTarget();
  globalThis.document = Object.assign(new EventTarget(), {hidden: false, activeElement: {blur() {}}});
  root = Object.assign(new EventTarget(), {
    isConnected: true,
    querySelectorAll: () => [],
    contains: node => node === root,
    matches: () => false,
    closest: () => null,
  });
  told = [];
  keys = holdKeys(root, (held, pressed) => told.push({held, pressed}));
});

function press(code, more) {
  const event = Object.assign(new Event('keydown', {cancelable: true}), {code, ...more});
  root.dispatchEvent(event);
  return event;
}
const release = (code, more) => window.dispatchEvent(Object.assign(new Event('keyup'), {code, ...more}));
const held = () => CHANNELS.filter((_, i) => told.at(-1)?.held[i]).map(channel => channel.id);

test('every channel has a key, a group and an opposite of its own', () => {
  assert.equal(new Set(CHANNELS.map(channel => channel.code)).size, 8);
  OPPOSITE.forEach((other, i) => {
    assert.equal(OPPOSITE[other], i);
    assert.equal(CHANNELS[other].group, CHANNELS[i].group);
  });
});

test('a key is held from its press to its release', () => {
  assert.ok(press('KeyW').defaultPrevented, 'arrows must not scroll');
  assert.deepEqual(held(), ['forward']);
  press('ArrowLeft');
  assert.deepEqual(held(), ['forward', 'yaw_left']);
  release('KeyW');
  assert.deepEqual(held(), ['yaw_left']);
  press('ArrowLeft', {repeat: true});
  assert.equal(told.length, 3, 'a key that repeats says nothing new');
});

test('opposite keys cancel, and the one that stays counts again', () => {
  press('KeyW');
  press('KeyS');
  assert.deepEqual(held(), []);
  assert.deepEqual(told.at(-1).pressed, [1, 1, 0, 0, 0, 0, 0, 0]);
  press('KeyD');
  assert.deepEqual(held(), ['right']);
  release('KeyW');
  assert.deepEqual(held(), ['back', 'right']);
});

test('shortcuts, text fields and other keys are left alone', () => {
  for (const modifier of ['ctrlKey', 'metaKey', 'altKey', 'isComposing']) {
    assert.ok(!press('KeyW', {[modifier]: true}).defaultPrevented);
  }
  assert.ok(!press('KeyX').defaultPrevented);
  root.matches = () => true;
  assert.ok(!press('KeyW').defaultPrevented);
  assert.deepEqual(held(), []);
});

test('Meta lets go: a Mac tells of no release while it is down', () => {
  press('KeyW');
  press('MetaLeft', {metaKey: true});
  assert.deepEqual(held(), []);
  press('KeyW', {metaKey: true, repeat: true});
  assert.deepEqual(held(), [], 'nor does it count while Meta is down');
});

test('Meta lets go where its own press says nothing of it, and when it comes up', () => {
  press('KeyW');
  press('OSLeft', {key: 'Meta'}); // as Firefox on Windows once called it
  assert.deepEqual(held(), []);
  press('KeyA');
  release('MetaLeft', {key: 'Meta'});
  assert.deepEqual(held(), [], 'its release may be the only word of it, if it was pressed elsewhere');
});

test('a key that was dropped while it is down is held again when it repeats', () => {
  press('KeyW');
  press('MetaLeft', {metaKey: true, key: 'Meta'});
  release('MetaLeft', {key: 'Meta'});
  assert.deepEqual(held(), []);
  press('KeyW', {repeat: true});
  assert.deepEqual(held(), ['forward']);
  keys.releaseAll();
  press('KeyW', {repeat: true});
  assert.deepEqual(held(), ['forward']);
  release('KeyW');
  assert.deepEqual(held(), []);
});

for (const [what, leave] of [
  ['Escape', () => press('Escape')],
  ['another window', () => window.dispatchEvent(new Event('blur'))],
  ['another place of the page', () => document.dispatchEvent(new Event('wanact:place'))],
  [
    'a hidden tab',
    () => {
      document.hidden = true;
      document.dispatchEvent(new Event('visibilitychange'));
    },
  ],
  ['the focus elsewhere', () => root.dispatchEvent(Object.assign(new Event('focusout'), {relatedTarget: null}))],
  ['whoever asks', () => keys.releaseAll()],
]) {
  test(`${what} lets go of every key`, () => {
    press('KeyW');
    press('ArrowUp');
    leave();
    assert.deepEqual(held(), []);
    release('KeyW');
    press('KeyA');
    assert.deepEqual(held(), ['left'], 'and keys work again');
  });
}

test('a page that is gone hears no key', () => {
  press('KeyW');
  root.isConnected = false;
  release('KeyW');
  assert.equal(told.length, 1);
});
