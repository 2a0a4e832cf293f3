/* Zhiyin in the pages of a shop.
 *
 *   <script src="https://recommend.shop.example/zhiyin.js"></script>
 *   zhiyin.init({url: "https://recommend.shop.example", token: () => fetch("/zhiyin-token").then(said => said.text())});
 *   zhiyin.track("film-7", "view", {listId: list.list_id});
 *   const list = await zhiyin.recommend({k: 10, fields: ["title"]});
 *   const rest = await zhiyin.more(list);  // the items that follow; null at the end
 *
 * `token` gives a page token that the shop's own server signed for the user of its session (PageKey of zhiyin.client, or
 * POST /v1/tokens); it is asked again when the token expires or is refused. A page token opens nothing but events and
 * lists of that user. A key in a page can be read by whoever opens it: the only one for it is a key for events, `key`.
 *
 * Events wait in localStorage until the service has kept them; each has an id, so that none counts twice however often
 * it is sent. Those of somebody else, who used this browser before, wait for that user's next token. Only what the
 * service says can never be kept is let go of, and beyond a thousand the oldest: zhiyin.dropped counts both. */
window.zhiyin = (() => {
  "use strict";
  const MOST = 1000, BATCH = 20, EVERY = 2000, BYTES = 60000, LONGEST = 60000, FRESH = 60e6;
  // Answers to a request that no other try will mend; after all others the service may recover, or the key be renewed.
  const NEVER = [400, 403, 404, 405, 411, 413, 414, 415, 422, 431], QUEUE = "zhiyin.queue", VISITOR = "zhiyin.visitor";
  let settings = null, sending = null, timer = 0, failed = 0, memory = {}, size = MOST, dropped = 0;
  let held = null, renewing = null;  // the page token, and the promise of the next one
  const requests = new WeakMap();
  const get = name => { try { return memory[name] ?? localStorage.getItem(name); } catch { return null; } };
  // What the browser has no room for, this page holds.
  const set = (name, text) => { try { localStorage.setItem(name, text); delete memory[name]; } catch { memory[name] = text; } };
  const made = () => crypto.randomUUID?.() ??  // which only pages over https have
    Array.from(crypto.getRandomValues(new Uint8Array(16)), byte => byte.toString(16).padStart(2, "0")).join("");
  const queue = () => { try { return [].concat(JSON.parse(get(QUEUE)) ?? []); } catch { return []; } };
  const settle = events => { const ids = events.map(e => e.id); set(QUEUE, JSON.stringify(queue().filter(e => !ids.includes(e.id)))); };
  const aside = event => { settle([event]); set(QUEUE, JSON.stringify([...queue(), event])); };
  const later = wait => { clearTimeout(timer); timer = setTimeout(() => flush().catch(() => {}), wait); };
  const visitor = () => { const known = get(VISITOR) || made(); set(VISITOR, known); return known; };

  // -- the page token ----------------------------------------------------------------------------------------------------

  /** Whom a token names, and how long it holds by this browser's clock, which may be wrong: counted from now. */
  function read(text) {
    const part = String(text).trim(), packed = (part.split(".")[1] || "").replace(/-/g, "+").replace(/_/g, "/");
    const said = JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(packed), char => char.charCodeAt(0))));
    const life = 1000 * (said.exp - (said.iat ?? Date.now() / 1000));
    return {text: part, users: [said.sub, said.sid].filter(Boolean), until: Date.now() + 0.9 * life};
  }
  const fresh = () => held && Date.now() < held.until ? held : null;
  /** Another token from the shop's server; who asks meanwhile gets the same one. */
  function renew() {
    const mine = settings;
    return renewing ??= (async () => {
      try {
        const token = read(await mine.token());
        if (settings === mine) {
          held = token;
          // What was done before it was known by whom.
          set(QUEUE, JSON.stringify(queue().map(e => e.user ? e : {...e, user: token.users[0]})));
        }
        return token;
      } finally { if (settings === mine) renewing = null; }
    })();
  }

  // -- asking ------------------------------------------------------------------------------------------------------------

  // Seconds that Retry-After asks for, as a number or as a date.
  const seconds = said => said === null ? 0 : Math.max(0, Number(said) || (Date.parse(said) - Date.now()) / 1000 || 0);
  async function ask(method, path, body, key) {
    const mine = settings, text = body && JSON.stringify(body);
    // What is sent while the page goes away arrives with keepalive only, which takes no more than 64 KB.
    const keepalive = Boolean(text) && new Blob([text]).size <= BYTES;
    const call = bearer => fetch(mine.url + path, {method, body: text, keepalive,
      headers: {"Authorization": `Bearer ${bearer}`, ...(text && {"Content-Type": "application/json"})}});
    let answer = await call(mine.token ? (fresh() ?? await renew()).text : key);
    if (answer.status === 401 && mine.token && settings === mine) {
      held = null;
      answer = await call((await renew()).text);
    }
    const said = await answer.json().catch(() => ({}));
    if (answer.ok || (answer.status === 400 && said.events)) return said;
    throw Object.assign(new Error(said.error || `the service answered ${answer.status}`),
      {status: answer.status, remedy: said.remedy || "", field: said.field, after: seconds(answer.headers.get("Retry-After"))});
  }
  // What was done a moment ago is given its time by the service: this clock may be wrong by days.
  const arriving = event => Math.abs(Date.now() * 1000 - event.time) < FRESH ? {...event, time: undefined} : event;
  /** Later, and each time later than before; or when the service says. Spread out, so that not all come at once. */
  function again(error) {
    const spread = 0.5 + Math.random() / 2, wait = Math.min(LONGEST, 1000 * 2 ** Math.min(failed++, 10) * spread);
    later(error.after ? 1000 * Math.min(error.after, 600) + 500 * spread : wait);
  }
  async function send(most) {
    if (!queue().length) return false;
    let users = null;
    if (settings.token) {
      try { users = (fresh() ?? await renew()).users; } catch (error) { again(error); throw error; }
    }
    let events = queue().filter(e => !users || users.includes(e.user)).slice(0, Math.min(most, size));
    while (events.length > 1 && new Blob([JSON.stringify({events})]).size > BYTES) events = events.slice(0, events.length / 2 | 0);
    if (!events.length) return false;
    return deliver(events);
  }
  async function deliver(events) {
    try {
      await ask("POST", "/v1/events", {events: events.map(arriving)}, settings.key);
    } catch (error) {
      if (!NEVER.includes(error.status)) {
        // Away, busy, full or broken, or there is no token that holds: the same events again. Where one of them may be
        // what breaks it, fewer, and that one last.
        if (error.status === 500) { if (events.length === 1) aside(events[0]); size = Math.max(1, events.length >> 1); }
        again(error);
        throw error;
      }
      const all = error.status === 404 || (error.status === 403 && !settings.token);  // it is the key, not the events
      if (events.length > 1 && !all) {  // one of them is not this user's, or spoils the rest: not all go
        const half = events.length >> 1, first = await deliver(events.slice(0, half)).catch(error => error);
        await deliver(events.slice(half));
        if (first !== true) throw first;
        return true;
      }
      settle(events);
      dropped += events.length;
      throw error;
    }
    failed = 0;
    size = MOST;
    settle(events);
    return true;
  }
  async function drain() {
    try { await null; while (settings && await send(BATCH)); } finally { sending = null; }
  }
  /** Send what waits; fails where the service is away or says no. */
  function flush() { clearTimeout(timer); timer = 0; return sending ??= drain(); }

  /** url of the service; token: a page token, or what gives one or the promise of one, again each time it is called.
   *  Without: key for events, readKey for lists, else the same; user, else this browser's visitor. */
  function init({url = "", token = null, key, readKey = key, user = null}) {
    const sign = typeof token === "function" || !token ? token : () => token;
    settings = {url: String(url).replace(/\/+$/, ""), token: sign, key, readKey, user: sign ? null : user || visitor()};
    held = renewing = null;
    if (queue().length) later(0);
    return settings.user;
  }
  /** What the user did with an item; sent within two seconds. Gives the id of the event. */
  function track(item, kind = "view", {listId, value, text} = {}) {
    const event = {id: made(), user: settings.user ?? held?.users[0], item: String(item), kind, time: Date.now() * 1000};
    if (listId) event.list_id = listId;
    if (value != null) event.value = value;
    if (text) event.text = text;
    const waiting = [...queue(), event], over = waiting.length - MOST;
    if (over > 0) { waiting.splice(0, over); dropped += over; }
    set(QUEUE, JSON.stringify(waiting));
    if (!failed && waiting.length >= BATCH) later(0); else if (!timer) later(EVERY);
    return event.id;
  }
  /** A list, as POST /v1/recommendations gives it; a failure has status, remedy and field. */
  async function recommend(body = {}) {
    const asked = settings.token || body.history ? body : {user: settings.user, ...body};
    const list = await ask("POST", "/v1/recommendations", asked, settings.readKey);
    requests.set(list, asked);
    return list;
  }
  /** The items that follow a list of `recommend`, for whom it was; null where none do. */
  const more = async list => list.next ? recommend({...requests.get(list), page: list.next}) : null;
  /** What GET gives: of popular, trending and similar items, say. */
  const look = path => ask("GET", path, undefined, settings.readKey);

  const leave = () => { if (settings) send(MOST).catch(() => {}); };
  addEventListener("pagehide", leave);
  document.addEventListener("visibilitychange", () => { if (document.visibilityState === "hidden") leave(); });
  addEventListener("online", () => { failed = 0; if (settings) flush().catch(() => {}); });
  return {init, track, flush, recommend, more, get: look, get dropped() { return dropped; }};
})();
