import assert from 'node:assert/strict';
import {test} from 'node:test';
import {CHANNELS} from '../../wanact/ui/web/channels.js';
import {Gamepads} from '../../wanact/ui/web/gamepad.js';

const pad = (axes, more) => ({connected: true, index: 0, id: 'pad', mapping: '', axes, ...more});
function reading(...pads) {
  const plugged = {pads, getGamepads: () => plugged.pads};
  const gamepads = new Gamepads(plugged);
  return (...now) => {
    plugged.pads = now;
    const values = gamepads.read();
    return values && CHANNELS.filter((_, i) => values[i]).map(channel => channel.id);
  };
}

test('where asking is forbidden there is no gamepad, and nobody asks again', () => {
  let asked = 0;
  const gamepads = new Gamepads({
    getGamepads() {
      asked++;
      throw new Error('SecurityError');
    },
  });
  assert.equal(gamepads.read(), null);
  assert.equal(gamepads.read(), null);
  assert.equal(asked, 1);
  assert.equal(new Gamepads({}).read(), null, 'nor where no browser knows of any');
});

test('a standard pad steers from its first word', () => {
  const read = reading();
  assert.deepEqual(read(null, pad([0, -1, 0.9, 0], {mapping: 'standard'})), ['forward', 'yaw_right']);
  assert.deepEqual(read(null, pad([0.1, 0, 0, 0], {mapping: 'standard'})), [], 'a dead zone');
  assert.equal(read(null, pad([0, 0], {mapping: 'standard'})), null, 'one stick is no pad');
});

test('triggers that rest at -1 do not steer, pulled or not', () => {
  const read = reading();
  assert.equal(read(pad([0, 0, -1, 0, 0, -1])), null, 'nothing has moved');
  assert.deepEqual(read(pad([0, -0.7, -1, 0, 0, -1])), ['forward']);
  assert.deepEqual(read(pad([0, 0, 0.4, 0.7, 0, -1])), ['yaw_right'], 'the second stick comes behind the trigger');
});

test('a trigger that is called 0 until it is first pulled does not steer either', () => {
  const read = reading();
  assert.equal(read(pad([0, 0, 0, 0, 0, 0])), null);
  assert.deepEqual(read(pad([0, -0.5, -0.98, 0, 0, 0])), ['forward']);
  assert.deepEqual(read(pad([0, 0, -1, 0, 0, 0])), [], 'it rests at its end');
});

test('a stick that was thrown to its end at once counts after it has come back', () => {
  const read = reading();
  read(pad([0, 0, 0, 0]));
  read(pad([0, -1, 0, 0]));
  for (let i = 0; i < 40; i++) read(pad([0, 0, 0, 0]));
  assert.deepEqual(read(pad([0, -1, 0, 0])), ['forward']);
});

test('of several devices the one that is moved steers, and a throttle beside it does not', () => {
  const read = reading();
  const throttle = pad([1, -1, 0.6, 1], {id: 'throttle', index: 0});
  const first = pad([0, 0, 0, 0], {mapping: 'standard', index: 1});
  const second = pad([-1, 0, 0, 0], {mapping: 'standard', index: 2});
  assert.deepEqual(read(throttle, first), []);
  assert.deepEqual(read(throttle, first, second), ['left']);
});
