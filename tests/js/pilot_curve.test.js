import assert from 'node:assert/strict';
import {test} from 'node:test';
import {roundValues} from '../../wanact/ui/pages/checkpoints/pilot_curve.js';
import {judged} from '../../wanact/ui/pages/checkpoints/pilot_face.js';

test('an axis has a few round values from one end to the other', () => {
  assert.deepEqual(roundValues(0, 25000, 5), [0, 5000, 10000, 15000, 20000, 25000]);
  assert.deepEqual(roundValues(-0.5, 15, 3), [0, 10]);
  assert.deepEqual(roundValues(0, 1, 2), [0, 0.5, 1]);
});

test('success has a colour of its own only where it is plain', () => {
  assert.deepEqual([0.95, 0.5, 0.1].map(judged), ['good', 'fair', 'poor']);
});
