import {channelsOf, LOOK, MOVE} from './sticks.js';

// Two analogue sticks of a gamepad, told from what else a browser calls a gamepad or an axis.
//
// A pad of the standard mapping has its sticks in the first four axes. Of another one nobody says what an axis is: it
// may be a throttle, a pedal, or a trigger that rests at -1. Such an axis counts once it has moved, if it rests in the
// middle as a stick does. Before the first move some browsers call a trigger 0, so its first word is a jump to its end.
const MOVED = 0.12;
const AT_AN_END = 0.8;
const IN_THE_MIDDLE = 0.2;
const READINGS_AT_REST = 30; // half a second in the middle: a stick after all

export class Gamepads {
  constructor(navigator = globalThis.navigator) {
    this.navigator = navigator;
    this.refused = !navigator?.getGamepads;
    this.known = new Map(); // by the pad's place and name: its axes, as they have been seen
  }

  // What all sticks mean, as channels [8]; null without a pad of which it is known that it has two.
  read() {
    const found = this.pads().map(pad => this.sticksOf(pad));
    const sticks = found.filter(Boolean);
    if (!sticks.length) return null;
    return valuesOf(sticks.find(axes => valuesOf(axes).some(Boolean)) || sticks[0]); // whoever steers
  }

  // Where the page has no permission (in a frame of somebody else's), asking raises an error, now and later.
  pads() {
    if (this.refused) return [];
    try {
      const pads = [...this.navigator.getGamepads()].filter(pad => pad?.connected && pad.axes.length >= 4);
      return pads.sort((one, other) => (other.mapping === 'standard') - (one.mapping === 'standard'));
    } catch {
      this.refused = true;
      return [];
    }
  }

  // The first four axes that can be those of sticks, or null for a device that has not shown that it has them.
  sticksOf(pad) {
    if (pad.mapping === 'standard') return pad.axes.slice(0, 4);
    const name = `${pad.index} ${pad.id}`;
    if (!this.known.has(name)) this.known.set(name, pad.axes.map(firstSeen));
    const seen = this.known.get(name);
    const sticks = [];
    for (const [i, axis] of seen.entries()) {
      const value = pad.axes[i] || 0;
      see(axis, value);
      if (!axis.isTrigger) sticks.push({value, hasMoved: axis.hasMoved});
    }
    if (sticks.length < 4 || !sticks.some(axis => axis.hasMoved)) return null;
    return sticks.slice(0, 4).map(axis => (axis.hasMoved ? axis.value : 0));
  }
}

const valuesOf = ([x, y, turn, tilt]) => {
  const look = channelsOf(turn, tilt, ...LOOK);
  return channelsOf(x, y, ...MOVE).map((value, i) => value + look[i]);
};

const firstSeen = value => ({
  first: value,
  hasMoved: false,
  isTrigger: Math.abs(value) > IN_THE_MIDDLE,
  atRest: 0,
});

function see(axis, value) {
  axis.atRest = Math.abs(value) < IN_THE_MIDDLE ? axis.atRest + 1 : 0;
  if (axis.isTrigger && axis.hasMoved && axis.atRest > READINGS_AT_REST) axis.isTrigger = false;
  if (axis.hasMoved || Math.abs(value - axis.first) < MOVED) return;
  axis.hasMoved = true;
  if (Math.abs(value) > AT_AN_END) axis.isTrigger = true;
}
