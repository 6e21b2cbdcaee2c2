import assert from 'node:assert/strict';
import {test} from 'node:test';
import {ahead, bearing, outline, projected, seenFrom} from '../../wanact/ui/pages/live/rings.js';
import {atRest} from '../../wanact/ui/pages/live/warp.js';

const SIZE = 2048;
const RATIO = 5 / 3;
const POSE = [100, 200, 50, 0, 0]; // looks along x
function near(found, expected, within = 1e-6) {
  const isNear = found.every((value, k) => Math.abs(value - expected[k]) < within);
  assert.ok(isNear, `${found}, expected ${expected}`);
}

test('a camera sees to the right what lies along its y, below what is lower, and tilts down by a negative pitch', () => {
  near(seenFrom(POSE, [130, 210, 45], SIZE), [10, 5, 30]);
  near(seenFrom([100, 200, 50, Math.PI / 2, 0], [100, 230, 50], SIZE), [0, 0, 30]);
  const [, down] = seenFrom([100, 200, 50, 0, -0.2], [130, 200, 50], SIZE);
  assert.ok(down < 0, 'who looks down sees the horizon above the middle');
});

test('the margin of the picture is 37.5 degrees from its middle', () => {
  const angle = (37.5 * Math.PI) / 180;
  near(projected(seenFrom(POSE, [100 + 40 * Math.cos(angle), 200 + 40 * Math.sin(angle), 50], SIZE)), [0.5, 0]);
});

test('the world wraps: what lies behind its end is near', () => {
  near(seenFrom([10, 200, 50, Math.PI, 0], [SIZE - 20, 200, 50], SIZE), [0, 0, 30]);
});

test('a ring straight ahead is a circle, and from aside an ellipse', () => {
  const spans = line => [0, 1].map(axis => Math.max(...line.map(p => p[axis])) - Math.min(...line.map(p => p[axis])));
  const [wide, high] = spans(outline(POSE, [160, 200, 50, 0, 15], SIZE));
  assert.ok(Math.abs(wide - high) < 0.01 * wide, `${wide} by ${high}`);
  const [narrow, tall] = spans(outline(POSE, [160, 200, 50, Math.PI / 3, 15], SIZE));
  assert.ok(narrow < 0.7 * tall, `${narrow} by ${tall}`);
});

test('of a ring that the drone is in the part before it is drawn, and nothing of one behind', () => {
  const line = outline(POSE, [100, 200, 50, Math.PI / 2, 15], SIZE);
  assert.ok(line.length > 4 && line.flat().every(Number.isFinite));
  assert.deepEqual(outline(POSE, [60, 200, 50, 0, 15], SIZE), []);
});

test('an arrow says which way to turn for a ring out of sight', () => {
  const at = (x, y, altitude = 50) => bearing(POSE, [x, y, altitude, 0, 15], SIZE, RATIO);
  assert.equal(at(140, 200).turn, null);
  near(at(140, 200).at, [0, 0]);
  assert.equal(Math.round(at(140, 200).distance), 40);
  assert.equal(at(110, 260).turn, 0, 'to the right');
  assert.equal(at(110, 140).turn, Math.PI, 'to the left');
  assert.equal(at(40, 210).turn, 0, 'behind, by the right');
  assert.ok(at(104, 200, 90).turn < -1, 'above');
});

test('rings move with a picture that leads the newest frame', () => {
  near(ahead(POSE, atRest()), POSE);
  near(ahead(POSE, {yaw: 90, pitch: -9, ahead: 0.05, aside: 0.1}), [110, 220, 50, Math.PI / 2, (-9 * Math.PI) / 180]);
});
