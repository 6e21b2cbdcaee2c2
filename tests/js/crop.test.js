import assert from 'node:assert/strict';
import {test} from 'node:test';
import {cutOf, fittedIn} from '../../wanact/ui/web/crop.js';

test('a portrait is cut above and below, a panorama at its sides', () => {
  const portrait = cutOf(3 / 4, 5 / 3);
  assert.equal(portrait.axis, 'y');
  assert.ok(portrait.isCut && Math.abs(portrait.kept - 0.45) < 1e-9);
  const panorama = cutOf(4, 2);
  assert.deepEqual(panorama, {axis: 'x', kept: 0.5, isCut: true});
  assert.ok(!cutOf(1.667, 1.733).isCut, 'nearly the same shape');
});

test('a picture is found where it lies in a box that shows all of it', () => {
  const box = {left: 10, top: 20, width: 400, height: 200};
  assert.deepEqual(fittedIn(box, 0.5), {left: 160, top: 20, width: 100, height: 200});
  assert.deepEqual(fittedIn(box, 4), {left: 10, top: 70, width: 400, height: 100});
});
