import assert from 'node:assert/strict';
import {test} from 'node:test';
import {atRest, isStill, motionOf, Timewarp, Warper} from '../../wanact/ui/pages/live/warp.js';
import {Canvas, centre, installDocument, paint} from './canvas.js';

installDocument();
const SPOT = paint(96, 64, (x, y) => (Math.hypot(x, y) < 0.25 ? 255 : 0));
const NOISE = paint(96, 64, (x, y) => (Math.sin(7919 * x) + Math.cos(104729 * y) + 2) * 60);
const NONE = [0, 0, 0, 0, 0, 0, 0, 0];
const RIGHT = [0, 0, 0, 0, 0, 3, 0, 0];

function warped(picture, offset) {
  const canvas = Object.assign(new Canvas(), {width: picture.width, height: picture.height});
  new Warper(canvas).draw(picture, {...atRest(), ...offset});
  return canvas;
}

test('a warp of zero motion is the identity', () => {
  assert.deepEqual(warped(NOISE, {}).data, NOISE.data);
  assert.deepEqual(warped(NOISE, {yaw: 0.01}).data, NOISE.data, 'nor does what cannot be seen move it');
});

test('a camera that turns right sees the world move left, and by the angle', () => {
  const {x, y} = centre(warped(SPOT, {yaw: 5}));
  const expected = -Math.tan((5 * Math.PI) / 180) / Math.tan((37.5 * Math.PI) / 180);
  assert.ok(Math.abs(x - expected) < 0.02, `${x}, expected ${expected}`);
  assert.ok(Math.abs(y) < 0.02);
});

test('each axis moves the picture its own way', () => {
  assert.ok(centre(warped(SPOT, {yaw: -5})).x > 0.08);
  assert.ok(centre(warped(SPOT, {pitch: 5})).y > 0.08, 'the camera looks up, so the spot sinks');
  assert.ok(centre(warped(SPOT, {aside: 0.1})).x < -0.08);
  const light = canvas => canvas.data.reduce((sum, value, i) => (i % 4 ? sum : sum + value), 0);
  assert.ok(light(warped(SPOT, {ahead: 0.15})) > 1.1 * light(SPOT), 'nearer is larger');
});

test('opposite turns move it as far', () => {
  const right = centre(warped(SPOT, {yaw: 4})).x;
  const left = centre(warped(SPOT, {yaw: -4})).x;
  assert.ok(Math.abs(right + left) < 0.02 && left - right > 0.1);
});

test('opposite controls of an action are no motion', () => {
  assert.deepEqual(motionOf([0.05, 0.05, 0.02, 0.02, 3, 3, 1, 1]), atRest());
  assert.deepEqual(motionOf([0.05, 0, 0, 0.02, 0, 3, 1, 0]), {yaw: 3, pitch: 1, ahead: 0.05, aside: 0.02});
});

test('a key that the frames do not obey yet leads, and what they obey leads no more', () => {
  const timewarp = new Timewarp();
  for (let i = 0; i < 10; i++) timewarp.advance(0.02, RIGHT, NONE, 0.25, 0.25);
  const led = timewarp.offset.yaw;
  assert.ok(led > 1.5 && led < 2.4, `0.2 s of 3 degrees in 0.25 s: ${led}`);
  for (let i = 0; i < 400; i++) timewarp.advance(0.02, RIGHT, RIGHT, 0.25, 0.25);
  assert.ok(isStill(timewarp.offset), 'it fades');
});

test('the lead has an end, a gain and a switch', () => {
  const timewarp = new Timewarp();
  for (let i = 0; i < 1000; i++) timewarp.advance(0.1, RIGHT, NONE, 0.1, 9);
  assert.equal(timewarp.offset.yaw, 8);
  timewarp.rest();
  assert.ok(isStill(timewarp.offset));
  timewarp.gains.yaw = 0;
  timewarp.advance(0.1, RIGHT, NONE, 0.25, 0.25);
  assert.ok(isStill(timewarp.offset) && !timewarp.predicts('yaw') && timewarp.predicts('pitch'));
  timewarp.gains.yaw = 1;
  timewarp.on = false;
  timewarp.advance(0.1, RIGHT, NONE, 0.25, 0.25);
  assert.ok(isStill(timewarp.offset));
});
