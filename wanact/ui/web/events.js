// The components of a page speak to each other through events on the document:
//   wanact:held      {held: [8], pressed: [8]}   what the pad holds; opposite keys have cancelled in `held`
//   wanact:peaks     {move, look}                the magnitude that a held key stands for, set on the pad
//   wanact:plan      {move, look}                the largest magnitudes of a plan that was just laid
//   wanact:take-keys {}                          a recording starts: the pad takes the keyboard focus
//   wanact:shape     {ratio}                     clips will be so much wider than high
//   wanact:playhead  {step, track}               the clip shows this action of this track (JSON)
//   wanact:new-place {}                          another sample is wanted as the first frame
// These stay within the place (live, fly, ...) that they come from. Between the places go:
//   wanact:go        {place}                     this place is wanted in sight; the header presses its tab
//   wanact:place     {place}                     this place has come into sight: every key lets go
//   wanact:start     {place, sample}             a first frame was chosen there; null is none of the samples
//   wanact:scene     {scene, frame, prompt, sample, crop}   what is chosen in a scene now; `scene` is its ids' prefix
//   wanact:kept      {scene, picture}            the tab has kept that; a name for a picture that is no sample
//   wanact:restored  {scene}                     what was chosen before a reload is chosen again, if anything was
//   wanact:tray      {items}                     the checkpoints that wait to be compared
//   wanact:choose-checkpoint {place}, wanact:compare-tray, wanact:compare-flight   something waits for this place (`leave`)
export const placeOf = node => node.closest('[id^=place-]')?.id.slice('place-'.length); // its tab, see page.py
// A place is built when it first comes into sight, so what is meant for it waits in this tab until then.
const WAITING = 'wanact-waiting-';
export function leave(place, what) {
  try {
    sessionStorage.setItem(WAITING + place, JSON.stringify(what));
  } catch {
    /* storage is blocked */
  }
}
export function collect(place) {
  try {
    const what = JSON.parse(sessionStorage.getItem(WAITING + place));
    sessionStorage.removeItem(WAITING + place);
    return what;
  } catch {
    return null;
  }
}

// Tell every place.
export function announceToAll(name, detail) {
  document.dispatchEvent(new CustomEvent('wanact:' + name, {detail: {...detail}}));
}

// What a component says to the others of its place, and hears from them and from every place.
export function connect(element) {
  return {
    announce(name, detail) {
      announceToAll(name, {...detail, from: placeOf(element)});
    },
    // Listens for as long as the page stands.
    hear(name, listener) {
      document.addEventListener('wanact:' + name, event => {
        const {from} = event.detail || {};
        if (!from || from === placeOf(element)) listener(event.detail || {});
      });
    },
  };
}
