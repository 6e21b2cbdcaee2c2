import {announceToAll} from '../../web/events.js';

// The checkpoints that wait to be compared: up to four ids with their labels, kept in this tab. Whoever changes them
// says so with the event wanact:tray, and whoever shows them listens.
const TRAY_KEY = 'wanact-tray';
export const TRAY_MAX = 4;
export const TRAY_LETTERS = 'ABCD';

export function readTray() {
  try {
    const kept = JSON.parse(sessionStorage.getItem(TRAY_KEY));
    return Array.isArray(kept) ? kept.filter(item => item && typeof item.id === 'string').slice(0, TRAY_MAX) : [];
  } catch {
    return [];
  }
}
export function writeTray(items) {
  try {
    sessionStorage.setItem(TRAY_KEY, JSON.stringify(items.slice(0, TRAY_MAX)));
  } catch {
    /* storage is blocked: the event still tells */
  }
  announceToAll('tray', {items: items.slice(0, TRAY_MAX)});
}
// Where a place is left for another one, its tab is pressed, as a person would.
export function goTo(place) {
  announceToAll('go', {place});
}
