// The eight channels in the order of the model, as the page names and draws them. Concatenated in front of
// every component's own script. `icon` is the path of a 24 x 24 drawing.
const CHANNELS = [
  {id: 'forward', label: 'Forward', key: 'W', code: 'KeyW', group: 'move', icon: 'M12 4l8 13H4z'},
  {id: 'back', label: 'Back', key: 'S', code: 'KeyS', group: 'move', icon: 'M12 20l8-13H4z'},
  {id: 'left', label: 'Left', key: 'A', code: 'KeyA', group: 'move', icon: 'M4 12l13-8v16z'},
  {id: 'right', label: 'Right', key: 'D', code: 'KeyD', group: 'move', icon: 'M20 12L7 4v16z'},
  {id: 'yaw_left', label: 'Turn left', key: '←', code: 'ArrowLeft', group: 'look',
    icon: 'M9 3L2 9l7 6v-4h3a6 6 0 0 1 6 6v4h4v-4A10 10 0 0 0 12 7H9z'},
  {id: 'yaw_right', label: 'Turn right', key: '→', code: 'ArrowRight', group: 'look',
    icon: 'M15 3l7 6-7 6v-4h-3a6 6 0 0 0-6 6v4H2v-4A10 10 0 0 1 12 7h3z'},
  {id: 'pitch_up', label: 'Look up', key: '↑', code: 'ArrowUp', group: 'look', icon: 'M12 3l8 8-3 3-5-5-5 5-3-3zM5 17h14v4H5z'},
  {id: 'pitch_down', label: 'Look down', key: '↓', code: 'ArrowDown', group: 'look', icon: 'M12 21l8-8-3-3-5 5-5-5-3 3zM5 3h14v4H5z'},
];
const OPPOSITE = [1, 0, 3, 2, 5, 4, 7, 6];

function channelIcon(channel) {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  svg.setAttribute('viewBox', '0 0 24 24');
  svg.setAttribute('aria-hidden', 'true');
  const path = document.createElementNS('http://www.w3.org/2000/svg', 'path');
  path.setAttribute('d', CHANNELS[channel].icon);
  svg.append(path);
  return svg;
}

// The eight lamps of a heads-up display, put into its `.hud .move` and `.hud .look`.
const channelLamps = find => CHANNELS.map((channel, i) => {
  const lamp = document.createElement('div');
  lamp.className = 'lamp ' + channel.id;
  lamp.append(channelIcon(i));
  find('.hud .' + channel.group).append(lamp);
  return lamp;
});

// The components of a page speak to each other through events on the document:
//   wanact:held      {held: [8], pressed: [8]}   what the pad holds; opposite keys have cancelled in `held`
//   wanact:peaks     {move, look}                the magnitude that a held key stands for, set on the pad
//   wanact:plan      {move, look}                the largest magnitudes of a plan that was just laid
//   wanact:take-keys {}                          a recording starts: the pad takes the keyboard focus
//   wanact:playhead  {step, track}               the clip shows this action of this track (JSON)
// These stay within the place (Fly, Live, ...) that they come from. Between the places go:
//   wanact:go        {place}                     this place is wanted in sight; the header presses its tab
//   wanact:place     {place}                     this place has come into sight: every key lets go
//   wanact:tray      {items}                     the checkpoints that wait to be compared
//   wanact:choose-checkpoint {place}, wanact:compare-tray, wanact:compare-flight   something waits for this place (`leave`)
const BETWEEN_PLACES = new Set(['go', 'place', 'tray', 'choose-checkpoint', 'compare-tray', 'compare-flight', 'uploaded']);
const placeOf = node => node.closest('#fly, #live, #checkpoints, #compare')?.id;
// A place is built when it first comes into sight, so what is meant for it waits in this tab until then.
const WAITING = 'wanact-waiting-';
function leave(place, what) { try { sessionStorage.setItem(WAITING + place, JSON.stringify(what)); } catch (error) { /* storage is blocked */ } }
function collect(place) {
  try {
    const what = JSON.parse(sessionStorage.getItem(WAITING + place));
    sessionStorage.removeItem(WAITING + place);
    return what;
  } catch (error) { return null; }
}
function announce(name, detail) {
  const from = BETWEEN_PLACES.has(name) ? undefined : placeOf(element);
  document.dispatchEvent(new CustomEvent('wanact:' + name, {detail: {...detail, from}}));
}

// Listen for as long as the page stands.
function hear(name, listener) {
  document.addEventListener('wanact:' + name, event => {
    const {from} = event.detail || {};
    if (!from || from === placeOf(element)) listener(event.detail || {});
  });
}
