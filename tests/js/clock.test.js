import assert from 'node:assert/strict';
import {test} from 'node:test';
import {makeClock} from '../../wanact/ui/pages/compare/clock.js';

// A video whose time stands still until it is told; seeking takes until `arrive`.
class Video extends EventTarget {
  constructor() {
    super();
    Object.assign(this, {address: '', paused: true, ended: false, seeking: false, onScreen: null, time: 0, seeks: []});
  }
  get src() {
    return this.address;
  }
  set src(value) {
    this.address = value;
    this.time = this.wanted = 0;
  }
  get currentTime() {
    return this.time;
  }
  set currentTime(value) {
    this.seeking = true;
    this.wanted = value;
    this.seeks.push(value);
  }
  arrive() {
    this.seeking = false;
    this.time = this.wanted;
    this.dispatchEvent(new Event('seeked'));
  }
  requestVideoFrameCallback(callback) {
    this.onScreen = callback;
  }
  present(mediaTime) {
    this.time = mediaTime;
    this.onScreen(0, {mediaTime});
  }
  async play() {
    this.paused = false;
    this.dispatchEvent(new Event('play'));
  }
  pause() {
    this.paused = true;
    this.dispatchEvent(new Event('pause'));
  }
}

function flying(numFrames = 17, fps = 16) {
  const video = new Video();
  const lanes = [[], []];
  const playing = [];
  const clock = makeClock(video, {
    onFrame: frame =>
      lanes.forEach(lane => {
        lane.push(frame);
      }),
    onPlaying: on => playing.push(on),
  });
  clock.load('clip', numFrames, fps);
  video.dispatchEvent(new Event('loadeddata'));
  for (const lane of lanes) lane.length = 0;
  return {video, clock, lanes, playing};
}

test('every lane shows the frame that is on the screen', () => {
  const {video, clock, lanes} = flying();
  for (const frame of [1, 2, 3, 7, 16]) {
    video.present(frame / 16);
    assert.equal(clock.frame, frame);
  }
  assert.deepEqual(lanes[0], [1, 2, 3, 7, 16]);
  assert.deepEqual(lanes[1], lanes[0], 'in step');
});

test('a seek shows its frame when it has arrived, and pauses', () => {
  const {video, clock, lanes} = flying();
  clock.seek(5);
  assert.ok(video.paused && lanes[0].length === 0);
  video.arrive();
  assert.deepEqual(lanes[0], [5]);
});

test('of many seeks while one is on its way only the last is made', () => {
  const {video, clock} = flying();
  for (const frame of [3, 4, 5, 6, 7]) clock.seek(frame);
  assert.equal(video.seeks.length, 1);
  video.arrive();
  assert.equal(video.seeks.length, 2);
  video.arrive();
  assert.equal(clock.frame, 7);
  assert.equal(video.seeks.length, 2);
});

test('steps count from where the seek will be, and stay within the clip', () => {
  const {video, clock} = flying();
  clock.seek(2);
  clock.step(1);
  clock.step(1);
  video.arrive();
  video.arrive();
  assert.equal(clock.frame, 4);
  clock.seek(99);
  video.arrive();
  assert.equal(clock.frame, 16);
  clock.step(-99);
  video.arrive();
  assert.equal(clock.frame, 0);
});

test('a longer clip goes on where the shorter one was', () => {
  const {video, clock} = flying();
  clock.seek(6);
  video.arrive();
  clock.load('longer', 33, 16);
  video.dispatchEvent(new Event('loadeddata'));
  video.arrive();
  assert.deepEqual([clock.frame, clock.count, video.paused], [6, 33, true]);
});

test('playing is told, and toggles', () => {
  const {clock, playing} = flying();
  clock.pause();
  clock.toggle();
  clock.toggle();
  assert.deepEqual(playing.slice(-3), [false, true, false]);
});

test('who asked for less motion sees the first frame, and nothing comes round again by itself', () => {
  globalThis.matchMedia = query => ({matches: query === '(prefers-reduced-motion: reduce)'});
  try {
    const video = new Video();
    const clock = makeClock(video, {onFrame() {}, onPlaying() {}});
    clock.load('a.mp4', 17, 16);
    video.dispatchEvent(new Event('loadeddata'));
    assert.equal(video.paused, true);
    assert.equal(video.loop, false);
    clock.toggle();
    assert.equal(video.paused, false, 'it plays when it is told to');
  } finally {
    delete globalThis.matchMedia;
  }
});
