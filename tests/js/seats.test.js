import assert from 'node:assert/strict';
import {test} from 'node:test';
import {takeSeat} from '../../wanact/ui/pages/live/seats.js';

// What browsers have as navigator.locks, as far as seats need it.
class Locks {
  held = new Set();
  async request(name, {ifAvailable}, callback) {
    assert.ok(ifAvailable);
    if (this.held.has(name)) return callback(null);
    this.held.add(name);
    try {
      return await callback({name});
    } finally {
      this.held.delete(name);
    }
  }
}

test('three tabs have a seat, a fourth one when one has been left', async () => {
  const locks = new Locks();
  const seats = [await takeSeat(locks), await takeSeat(locks), await takeSeat(locks)];
  assert.ok(seats.every(Boolean));
  assert.equal(await takeSeat(locks), null);
  seats[1]();
  await new Promise(resolve => setTimeout(resolve));
  assert.ok(await takeSeat(locks));
  assert.equal(await takeSeat(locks), null);
});

test('without locks every tab has one', async () => {
  for (let tab = 0; tab < 5; tab++) assert.ok(await takeSeat(null));
});
