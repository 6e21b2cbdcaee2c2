import assert from 'node:assert/strict';
import {test} from 'node:test';
import {nearest} from '../../wanact/ui/pages/checkpoints/plot.js';
import {nearestIndex, smoothed, spread} from '../../wanact/ui/pages/checkpoints/smooth.js';

test('smoothing leaves a constant as it is from the first value on, and gaps are gaps', () => {
  const level = smoothed([2, 2, null, 2, 2], 0.9);
  assert.equal(level[2], null);
  for (const value of level.filter(one => one !== null)) assert.ok(Math.abs(value - 2) < 1e-12);
  assert.deepEqual(smoothed([1, null, 3], 0), [1, null, 3]);
});

test('a smoothed curve swings less and follows', () => {
  const noisy = Array.from({length: 200}, (_, i) => i / 100 + (i % 2 ? 0.5 : -0.5));
  const calm = smoothed(noisy, 0.9);
  const swing = list => Math.max(...list.slice(1).map((value, i) => Math.abs(value - list[i])));
  assert.ok(swing(calm.slice(20)) < swing(noisy) / 5);
  assert.ok(Math.abs(calm[199] - 1.9) < 0.2);
});

test('the nearest step is found at both ends and between', () => {
  const steps = [10, 20, 40];
  assert.deepEqual(
    [-5, 14, 16, 31, 99].map(step => steps[nearestIndex(steps, step)]),
    [10, 10, 20, 40, 40],
  );
  assert.equal(nearestIndex([], 3), -1);
});

test('a plot tells every line that has a value at the nearest place', () => {
  const lines = [
    {
      name: 'a',
      points: [
        [0, 1],
        [2, null],
      ],
    },
    {
      name: 'b',
      points: [
        [0, 5],
        [1, 6],
      ],
    },
  ];
  assert.deepEqual(nearest(lines, 0.2), {
    at: 0,
    values: [
      ['a', 1],
      ['b', 5],
    ],
  });
  assert.deepEqual(nearest(lines, 9), {at: 1, values: [['b', 6]]});
  assert.equal(nearest([{name: 'a', points: []}], 0), null);
});

test('frames stand under their steps as far as their neighbours let them', () => {
  assert.deepEqual(spread([10, 100], [20, 20], 2, 200), [10, 100]);
  const places = spread([50, 52, 54, 190], [20, 20, 20, 20], 2, 200);
  assert.deepEqual(places, [50, 72, 94, 180]);
  assert.deepEqual(spread([-5, 195], [20, 20], 2, 200), [0, 180]);
});
