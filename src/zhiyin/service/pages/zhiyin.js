/* Zhiyin in the pages of a shop.
 *
 *   <script src="https://recommend.shop.example/zhiyin.js"></script>
 *   zhiyin.init({url: "https://recommend.shop.example", key: "zy_events_...", readKey: "zy_read_...", user: "alice"});
 *   zhiyin.track("film-7", "view", {listId: list.list_id});
 *   const list = await zhiyin.recommend({k: 10, fields: ["title"]});
 *   const rest = await zhiyin.more(list);  // the items that follow; null at the end
 *
 * Events wait in localStorage until the service has kept them; each has an id, so that none counts twice however often
 * it is sent. A key in a page can be read by whoever opens it: give it no more than events, or read. */
window.zhiyin = (() => {
  "use strict";
  const MOST = 200, BATCH = 20, EVERY = 2000, BYTES = 60000, LONGEST = 60000, FRESH = 60e6;
  const AGAIN = [429, 502, 503, 504], QUEUE = "zhiyin.queue", VISITOR = "zhiyin.visitor";
  const requests = new WeakMap();
  let settings = null, sending = null, timer = 0, failed = 0, memory = {};
  const get = name => { try { return localStorage.getItem(name); } catch { return memory[name] ?? null; } };
  const set = (name, text) => { try { localStorage.setItem(name, text); } catch { memory[name] = text; } };
  const made = () => crypto.randomUUID?.() ??  // which only pages over https have
    Array.from(crypto.getRandomValues(new Uint8Array(16)), byte => byte.toString(16).padStart(2, "0")).join("");
  const queue = () => { try { return [].concat(JSON.parse(get(QUEUE)) ?? []); } catch { return []; } };
  const settle = events => { const ids = events.map(e => e.id); set(QUEUE, JSON.stringify(queue().filter(e => !ids.includes(e.id)))); };
  const later = wait => { clearTimeout(timer); timer = setTimeout(() => flush().catch(() => {}), wait); };
  const visitor = () => { const known = get(VISITOR) || made(); set(VISITOR, known); return known; };

  async function ask(path, body, key) {
    const headers = {"Authorization": `Bearer ${key}`, "Content-Type": "application/json"}, text = JSON.stringify(body);
    // What is sent while the page goes away arrives with keepalive only, which takes no more than 64 KB.
    const keepalive = new Blob([text]).size <= BYTES;
    const answer = await fetch(settings.url + path, {method: "POST", headers, body: text, keepalive});
    const said = await answer.json().catch(() => ({}));
    if (answer.ok || (answer.status === 400 && said.events)) return said;
    throw Object.assign(new Error(said.error || `the service answered ${answer.status}`),
      {status: answer.status, remedy: said.remedy || "", field: said.field, after: answer.headers.get("Retry-After")});
  }
  // What was done a moment ago is given its time by the service: this clock may be wrong by days.
  const arriving = event => Math.abs(Date.now() * 1000 - event.time) < FRESH ? {...event, time: undefined} : event;
  async function send(most) {
    let events = queue().slice(0, most);
    while (events.length > 1 && new Blob([JSON.stringify({events})]).size > BYTES) events = events.slice(0, events.length / 2 | 0);
    if (!events.length) return false;
    try {
      await ask("/v1/events", {events: events.map(arriving)}, settings.key);
    } catch (error) {
      if (!error.status || AGAIN.includes(error.status)) {  // away or busy: the same events again, later each time
        later(Math.min(LONGEST, 1000 * (Number(error.after) || 2 ** failed++ * (0.5 + Math.random() / 2))));
      } else settle(events);
      throw error;
    }
    failed = 0;
    settle(events);
    return true;
  }
  async function drain() {
    try { await null; while (settings && await send(BATCH)); } finally { sending = null; }
  }
  /** Send what waits; fails where the service is away or says no. */
  function flush() { clearTimeout(timer); timer = 0; return sending ??= drain(); }

  /** url of the service; key for events; readKey for lists, else the same; user, else this browser's visitor. */
  function init({url = "", key, readKey = key, user = null}) {
    settings = {url: String(url).replace(/\/+$/, ""), key, readKey, user: user || visitor()};
    if (queue().length) later(0);
    return settings.user;
  }
  /** What the user did with an item; sent within two seconds. Gives the id of the event. */
  function track(item, kind = "view", {listId, value} = {}) {
    const event = {id: made(), user: settings.user, item: String(item), kind, time: Date.now() * 1000};
    if (listId) event.list_id = listId;
    if (value != null) event.value = value;
    const waiting = [...queue(), event].slice(-MOST);
    set(QUEUE, JSON.stringify(waiting));
    if (!failed && waiting.length >= BATCH) later(0); else if (!timer) later(EVERY);
    return event.id;
  }
  /** A list, as POST /v1/recommendations gives it; a failure has status, remedy and field. */
  async function recommend(body = {}) {
    const asked = body.history ? body : {user: settings.user, ...body};
    const list = await ask("/v1/recommendations", asked, settings.readKey);
    requests.set(list, asked);
    return list;
  }
  /** The items that follow a list of `recommend`, for whom it was; null where none do. */
  const more = async list => list.next ? recommend({...requests.get(list), page: list.next}) : null;

  const leave = () => { if (settings) send(MOST).catch(() => {}); };
  addEventListener("pagehide", leave);
  document.addEventListener("visibilitychange", () => { if (document.visibilityState === "hidden") leave(); });
  addEventListener("online", () => { failed = 0; if (settings) flush().catch(() => {}); });
  return {init, track, flush, recommend, more};
})();
