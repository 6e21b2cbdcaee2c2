import assert from 'node:assert/strict';
import {test} from 'node:test';
import {Handoff} from '../../wanact/ui/pages/live/handoff.js';
import {atRest, Timewarp, Warper} from '../../wanact/ui/pages/live/warp.js';
import {Canvas, installDocument, paint} from './canvas.js';

installDocument();
const REST = [0, 0, 0, 0, 0, 0, 0, 0];
const RIGHT = [0, 0, 0, 0, 0, 3, 0, 0];
const VIEW = paint(80, 48, (x, y) => 128 + 60 * Math.sin(9 * x) + 60 * Math.cos(7 * y + 2 * x));

function after(degrees) {
  const canvas = Object.assign(new Canvas(), {width: 80, height: 48});
  new Warper(canvas).draw(VIEW, {...atRest(), yaw: degrees});
  return canvas;
}
const frame = (image, more) => ({image, a: RIGHT, n: 1, ...more});

test('a world that turns as predicted measures as a good handoff', () => {
  const handoff = new Handoff(new Timewarp());
  handoff.begin(VIEW, RIGHT, REST, 1);
  handoff.see(frame(after(3)), true);
  const {trials, plain, warped} = handoff.summary();
  assert.equal(trials, 1);
  assert.ok(warped < 0.2 && plain > 5, `${warped} with the warp, ${plain} without`);
  assert.equal(handoff.timewarp.gains.yaw, 1);
});

test('the gain follows a world that turns twice as far, or not at all', () => {
  for (const [degrees, gain] of [
    [6, 2],
    [0, 0],
  ]) {
    const handoff = new Handoff(new Timewarp());
    for (let i = 0; i < 12; i++) {
      handoff.begin(VIEW, RIGHT, REST, 1);
      handoff.see(frame(after(degrees)), true);
    }
    assert.ok(Math.abs(handoff.timewarp.gains.yaw - gain) < 0.05, `${handoff.timewarp.gains.yaw} of ${gain}`);
    assert.equal(handoff.timewarp.gains.pitch, 1, 'other axes keep theirs');
  }
});

test('only one axis from rest is measured', () => {
  const handoff = new Handoff(new Timewarp());
  handoff.begin(VIEW, [0.05, 0, 0, 0, 0, 3, 0, 0], REST, 1);
  assert.equal(handoff.trial, null, 'two axes');
  handoff.begin(VIEW, RIGHT, RIGHT, 1);
  assert.equal(handoff.trial, null, 'not from rest');
  handoff.begin(null, RIGHT, REST, 1);
  assert.equal(handoff.trial, null, 'nothing is seen');
});

test('a trial waits for the last frame that obeys the key, and ends with another motion', () => {
  const handoff = new Handoff(new Timewarp());
  handoff.begin(VIEW, RIGHT, REST, 5);
  handoff.see(frame(after(0), {n: 4, a: REST}), true);
  handoff.see(frame(after(1), {n: 5}), false);
  assert.equal(handoff.summary(), null);
  assert.deepEqual(handoff.trial, {axis: 'yaw', n: 5});
  handoff.see(frame(after(3), {n: 6, a: [0.05, 0, 0, 0, 0, 3, 0, 0]}), true);
  assert.deepEqual([handoff.trial, handoff.summary()], [null, null]);
});
