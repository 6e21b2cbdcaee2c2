import assert from 'node:assert/strict';
import {beforeEach, test} from 'node:test';
import {Film, Player} from '../../wanact/ui/pages/live/player.js';

const NONE = [0, 0, 0, 0, 0, 0, 0, 0];
let closed = 0;
beforeEach(() => {
  closed = 0;
  globalThis.createImageBitmap = async blob => ({blob, close: () => closed++});
});

// Four frames of a latent frame, the first of them number `i`, that obey message `n`.
const message = (i, n = 0) => ({i, k: 0, t: i / 4, n, a: NONE, attitude: [0, 0], f: ['AAAA', 'AAAA', 'AAAA', 'AAAA']});
const blob = size => new Blob([new Uint8Array(size)]);

async function playing(...messages) {
  const player = new Player(16);
  for (const one of messages) player.take(one);
  await player.decoding;
  return player;
}

test('frames are shown one by one in their time', async () => {
  const player = await playing(message(1));
  const shown = [];
  for (let now = 1000; now < 1400; now += 10) {
    const frame = player.next(now, 0);
    if (frame) shown.push([now, frame.i]);
  }
  assert.deepEqual(
    shown.map(([, i]) => i),
    [1, 2, 3, 4],
  );
  const waits = shown.slice(1).map(([now], j) => now - shown[j][0]);
  assert.ok(
    waits.every(wait => wait >= 30 && wait <= 70),
    `a sixteenth of a second each: ${waits}`,
  );
  assert.equal(player.next(5000, 0), null);
});

test('a frame that obeys a newer key drops those before it, which are late', async () => {
  const player = await playing(message(1, 0), message(5, 1));
  assert.equal(player.next(1000, 0).i, 5, 'at once');
  assert.equal(closed, 4);
  assert.equal(player.next(1001, 1), null, 'the next one has its time again');
});

test('who has fallen behind plays faster', async () => {
  const behind = await playing(message(1), message(5), message(9));
  const even = await playing(message(1));
  for (const player of [behind, even]) player.next(1000, 0);
  assert.ok(behind.due < even.due, `${behind.due}, ${even.due}`);
});

test('frames lost on the way are counted', async () => {
  const player = await playing(message(1), message(13));
  assert.equal(player.missed, 8);
  globalThis.createImageBitmap = async () => {
    throw new Error('no picture');
  };
  player.take(message(17));
  await player.decoding;
  assert.equal(player.missed, 12, 'and those that are no pictures');
});

test('what is still being decoded when a flight goes back is not shown', async () => {
  const player = new Player(16);
  player.take(message(1));
  player.clear();
  await player.decoding;
  assert.equal(player.waiting.length, 0);
  assert.equal(closed, 4);
});

test('the period follows the arrivals, within bounds', () => {
  const player = new Player(16);
  assert.equal(player.period, 0.25);
  player.arrived = [0, 500, 1000];
  assert.equal(player.period, 0.5);
  player.arrived = [0, 9000, 18000];
  assert.equal(player.period, 1.5);
  player.arrived = [0, 1, 2];
  assert.equal(player.period, 0.25, 'no clip plays faster than it was meant');
});

test('a film goes back, forks, and forgets its oldest frames', () => {
  const film = new Film(blob(1), 2);
  for (let i = 0; i < 12; i++) film.add(blob(10));
  assert.deepEqual([film.end, film.size], [5, 120]);
  assert.equal(film.at(2), film.first);
  assert.equal(film.at(5), film.blobs[11]);
  const fork = film.copy(4);
  fork.add(blob(10));
  assert.deepEqual([fork.end, fork.size, film.end], [4, 90, 5]);
  film.cut(3);
  assert.deepEqual([film.end, film.size, film.blobs.length], [3, 40, 4]);
  const large = new Film(blob(1), 0);
  for (let i = 0; i < 12; i++) large.add({size: 10 * 2 ** 20});
  assert.deepEqual([large.start, large.end, large.size], [1, 3, 80 * 2 ** 20]);
});
