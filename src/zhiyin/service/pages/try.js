/* The page to try the service on: what you click counts, and the list beside it says what changed and why.
   Data of the service comes into the page as text only (textContent). */
"use strict";
(() => {
  const WORDS = {
    en: {
      skip: "To the list", title: "Click what you like", lead: "The list answers at once, and says why.",
      door: "A key opens the service", doorNote: "It was shown when the service started first. It stays in this tab only.",
      key: "Key for pages", open: "Open",
      you: "You are", aStranger: "a stranger", user: "Id of a user", userHint: "User id", become: "Become",
      stranger: "New stranger", past: "Your clicks, the latest first", pastEmpty: "None yet: you see what strangers see.",
      pastKnown: "None since the model learned. What it learned of you counts.",
      shelf: "The catalogue", search: "Search the catalogue", searchHint: "Search titles", list: "For you",
      variety: "Variety", k: "Items", filter: "Only where", examples: "Such as", leave: "Use another key",
      empty: "Nothing fits. A wider condition finds more.", see: "See the list",
      varietyNone: "none", found: n => n === 1 ? "1 item" : `${n} items`, none: "Nothing is called so.",
      popular: "Popular items. Click one or two.", isNew: "new", up: n => `up ${n}`, down: n => `down ${n}`,
      moved: (fresh, up, down) => [fresh && `${fresh} new`, up && `${up} up`, down && `${down} down`].filter(Boolean).join(", ") || "Nothing moved",
      made: (version, ms) => `Model version ${version}, ${ms} ms`, degraded: names => `left out for lack of time: ${names}`,
      kept: title => `Click on “${title}” is kept.`, away: "The service does not answer.",
      wrongKey: "This key is not known to the service.",
      wrongKind: "This key signs nothing for pages. One that does: zhiyin key add web --scope page",
    },
    zh: {
      skip: "跳到推荐列表", title: "点您喜欢的", lead: "推荐列表立刻变化，并说明理由。",
      door: "需要密钥才能打开服务", doorNote: "服务第一次启动时会显示密钥。密钥只保存在本标签页中。",
      key: "页面密钥", open: "打开",
      you: "您是", aStranger: "一位陌生人", user: "用户编号", userHint: "用户编号", become: "成为该用户",
      stranger: "换一位", past: "您点过的（最近的在前）", pastEmpty: "还没有：现在看到的是陌生人的列表。",
      pastKnown: "模型训练之后还没有点击；模型已经学到的仍然有效。",
      shelf: "目录", search: "搜索目录", searchHint: "搜索标题", list: "为您推荐",
      variety: "多样性", k: "数量", filter: "只要满足", examples: "例如", leave: "换一个密钥",
      empty: "没有符合的内容，放宽条件试试。", see: "查看列表",
      varietyNone: "无", found: n => `${n} 项`, none: "没有这样的标题。",
      popular: "热门内容，点一两个试试。", isNew: "新", up: n => `上升 ${n}`, down: n => `下降 ${n}`,
      moved: (fresh, up, down) => [fresh && `${fresh} 个新的`, up && `${up} 个上升`, down && `${down} 个下降`].filter(Boolean).join("，") || "没有变化",
      made: (version, ms) => `模型版本 ${version}，${ms} 毫秒`, degraded: names => `因时间不足而省略：${names}`,
      kept: title => `已记录：《${title}》。`, away: "服务没有响应。",
      wrongKey: "服务不认识这个密钥。",
      wrongKind: "这个密钥不能用于页面。请运行 zhiyin key add web --scope page。",
    },
  };
  const KEYS = "zhiyin.keys", LANGUAGE = "zhiyin.language", PAST = 12;
  const NAMES = [/^title$/i, /_title$/i, /^name$/i, /_name$/i, /title/i, /^product$/i];
  const KINDS = /genre|categor|brand|topic|author|artist|type/i;
  const root = location.pathname.replace(/\/try\/?$/, "");
  const $ = id => document.getElementById(id);
  const still = matchMedia("(prefers-reduced-motion: reduce)");

  const state = {
    keys: null, user: "", stranger: true, language: "en", listId: null, places: null, asked: 0, searched: 0,
    columns: null, title: null, titles: new Map(), past: [], rows: [], users: [],
  };
  const say = (name, ...values) => {
    const word = WORDS[state.language][name];
    return typeof word === "function" ? word(...values) : word;
  };
  const make = (tag, kind, text) => {
    const node = document.createElement(tag);
    if (kind) node.className = kind;
    if (text !== undefined) node.textContent = text;
    return node;
  };

  // -- asking ----------------------------------------------------------------------------------------------------------

  const get = path => zhiyin.get(path);

  /** A page token, as a shop's own server has it signed; here the key is this tab's, and the visitor says who they are. */
  async function sign(who) {
    const answer = await fetch(`${root}/v1/tokens`, {method: "POST", body: JSON.stringify(who),
      headers: {"Authorization": `Bearer ${state.keys.key}`, "Content-Type": "application/json"}});
    const said = await answer.json().catch(() => ({}));
    if (answer.ok) return said.token;
    throw Object.assign(new Error(said.error || String(answer.status)), {status: answer.status, remedy: said.remedy || ""});
  }

  const refused = error => error.status === 401 ? say("wrongKey") : error.status === 403 || error.status === 409 ? say("wrongKind") : "";
  function trouble(error) {
    if (error && refused(error)) return close(refused(error));
    const text = !error ? "" : !error.status ? say("away") : [error.message, error.remedy].filter(Boolean).join(". ");
    $("trouble").textContent = text;
    $("trouble").hidden = !text;
  }

  // -- the key, the language, the user ----------------------------------------------------------------------------------

  function kept(store, name) {
    try { return store.getItem(name); } catch { return null; }
  }
  function keep(store, name, text) {
    try { if (text === null) store.removeItem(name); else store.setItem(name, text); } catch { /* then for this page only */ }
  }

  function begin() {
    speak(kept(localStorage, LANGUAGE) || (/^zh/i.test(navigator.language) ? "zh" : "en"));
    const given = new URLSearchParams(location.hash.slice(1));
    if (given.has("key")) {
      // Out of the address bar, the history and any picture of the screen.
      history.replaceState(null, "", location.pathname + location.search);
      keep(sessionStorage, KEYS, JSON.stringify({
        key: given.get("key"), users: (given.get("users") || "").split(",").filter(Boolean),
      }));
    }
    let keys = null;
    try { keys = JSON.parse(kept(sessionStorage, KEYS)); } catch { /* none */ }
    if (keys && keys.key) open(keys); else close("");
  }

  function close(why) {
    state.keys = null;
    keep(sessionStorage, KEYS, null);
    $("room").hidden = true;
    $("door").hidden = false;
    $("trouble").textContent = why;
    $("trouble").hidden = !why;
    if (why) $("key").focus();
  }

  async function open(keys) {
    state.keys = keys;
    state.users = keys.users || [];
    trouble(null);
    identify("");
    try {
      await learn();
    } catch (error) {
      if (refused(error)) return close(refused(error));
      trouble(error);
    }
    $("door").hidden = true;
    $("room").hidden = false;
    suggest();
    await become("");
  }

  /** What columns the catalogue has: which one names an item, which are short enough to show, what to filter by. */
  async function learn() {
    const rows = (await get("/v1/items?search=&k=30")).items;
    const values = {};
    for (const row of rows) for (const [name, value] of Object.entries(row.columns || {})) (values[name] ??= []).push(value);
    const names = Object.keys(values);
    const texts = names.filter(name => values[name].every(value => typeof value === "string"));
    state.title = NAMES.map(pattern => texts.find(name => pattern.test(name))).find(Boolean) || null;
    const short = names.filter(name => name !== state.title && name !== "hidden" && values[name].every(value => plain(name, value).length <= 48));
    const numbers = short.filter(name => values[name].every(value => typeof value === "number"));
    const first = short.filter(name => KINDS.test(name) && !numbers.includes(name));
    const other = short.filter(name => !first.includes(name) && typeof values[name][0] !== "string" && typeof values[name][0] !== "boolean");
    state.columns = [...new Set([...first.slice(0, 2), ...other])].slice(0, 3);
    await examples(values, numbers, first);
  }

  const quoted = name => /^[a-z_]\w*$/i.test(name) ? name : `"${name.replaceAll('"', '""')}"`;
  const literal = value => `'${String(value).replaceAll("'", "''")}'`;

  /** Conditions to begin with, of columns that there are; each is tried before it is shown. */
  async function examples(values, numbers, kinds) {
    const number = numbers.find(name => /price|cost/i.test(name)) || numbers[0], tries = [];
    if (number) {
      const sorted = [...values[number]].sort((a, b) => a - b);
      tries.push([`${quoted(number)} < ${sorted[sorted.length >> 1]}`]);
    }
    if (kinds.length) {
      const name = quoted(kinds[0]), counts = new Map();
      const parts = values[kinds[0]].flatMap(value => Array.isArray(value) ? value : String(value ?? "").split("|"));
      for (const part of parts.filter(Boolean)) counts.set(part, (counts.get(part) || 0) + 1);
      const often = [...counts.keys()].sort((a, b) => counts.get(b) - counts.get(a))[0];
      const texts = [`${name} = ${literal(often)}`, `${literal(often)} IN ${name}`];
      if (often !== undefined) tries.push(parts.length > values[kinds[0]].length ? texts.reverse() : texts);
    }
    const works = text => get(`/v1/popular?k=1&filter=${encodeURIComponent(text)}`).then(said => said.items.length > 0, () => false);
    const made = (await Promise.all(tries.map(async texts => {
      for (const text of texts) if (await works(text)) return text;
      return null;
    }))).filter(Boolean);
    const buttons = made.map(text => {
      const button = make("button", "", text);
      button.type = "button";
      button.addEventListener("click", () => { $("filter").value = text; refresh(); });
      return button;
    });
    $("examples").replaceChildren($("examples").firstElementChild, ...buttons);
    $("examples").hidden = !made.length;
    $("filter").placeholder = made[0] || "";
  }

  function speak(language) {
    state.language = language === "zh" ? "zh" : "en";
    document.documentElement.lang = state.language;
    document.title = `Zhiyin · ${say("title")}`;
    for (const node of document.querySelectorAll("[data-say]")) node.textContent = say(node.dataset.say);
    for (const node of document.querySelectorAll("[data-say-placeholder]")) node.placeholder = say(node.dataset.sayPlaceholder);
    for (const node of document.querySelectorAll("[data-language]")) {
      node.setAttribute("aria-pressed", String(node.dataset.language === state.language));
    }
    $("moved").textContent = "";
    named();
    pulled();
  }

  function named() {
    $("name").textContent = state.stranger ? say("aStranger") : state.user;
    $("past-empty").textContent = say(state.stranger ? "pastEmpty" : "pastKnown");
  }

  /** Be a user, or a stranger with a session of their own. */
  function identify(user) {
    state.stranger = !user;
    state.user = user || `session-${Array.from(crypto.getRandomValues(new Uint8Array(16)), byte => byte.toString(16).padStart(2, "0")).join("")}`;
    const who = user ? {user} : {session: state.user};
    zhiyin.init({url: root, token: () => sign(who)});
  }

  async function become(user) {
    identify(user);
    Object.assign(state, {places: null, listId: null, past: []});
    $("user").value = "";
    $("moved").textContent = "";
    named();
    showPast();
    await Promise.all([refresh(), search(), user ? remember() : null]);
  }

  /** Users to become, offered while an id is typed: those the address named. */
  function suggest() {
    $("users").replaceChildren(...[...new Set(state.users)].map(user => {
      const option = make("option");
      option.value = user;
      return option;
    }));
  }

  // -- what was clicked --------------------------------------------------------------------------------------------------

  async function remember() {
    const user = state.user;
    try {
      const events = (await get(`/v1/users/${encodeURIComponent(user)}/history?most=${PAST}`)).events.reverse();
      await Promise.all(events.filter(event => !state.titles.has(event.item)).map(async event => {
        const found = await get(`/v1/items/${encodeURIComponent(event.item)}`).catch(() => null);
        if (found) titled({item: event.item, columns: found.columns});
      }));
      if (user !== state.user) return;
      state.past = events.map(event => event.item);
      showPast();
    } catch (error) { trouble(error); }
  }

  function showPast() {
    $("past").replaceChildren(...state.past.slice(0, PAST).map(item => {
      const node = make("li", "", name(item));
      node.title = name(item);
      return node;
    }));
  }

  async function click(item, listId) {
    zhiyin.track(item, "view", {listId: listId || undefined});
    state.past.unshift(item);
    showPast();
    try {
      await zhiyin.flush();
      trouble(null);
    } catch (error) {
      return trouble(error);
    }
    await refresh();
  }

  // -- the catalogue -----------------------------------------------------------------------------------------------------

  async function search() {
    const text = $("search").value.trim(), turn = ++state.searched;
    try {
      const {items} = await get(`/v1/items?search=${encodeURIComponent(text)}&k=12`);
      if (turn !== state.searched) return;
      $("shelf").replaceChildren(...items.map(row => line(row, null)));
      $("shelf").scrollTop = 0;
      $("found").textContent = !text ? say("popular") : items.length ? say("found", items.length) : say("none");
    } catch (error) {
      if (turn === state.searched) trouble(error);
    }
  }

  function plain(column, value) {
    if (value === null || value === undefined || value === "") return "";
    if (typeof value === "number") return `${column}\u00a0${Number.isInteger(value) ? value : Number(value.toFixed(2))}`;
    return (Array.isArray(value) ? value : String(value).split("|")).join(", ");
  }
  const about = columns => (state.columns || []).map(name => plain(name, columns[name])).filter(Boolean).join(" · ");
  const name = item => state.titles.get(item) || item;
  function titled(row) {
    const title = state.title && row.columns && row.columns[state.title];
    if (title) state.titles.set(row.item, String(title));
  }

  /** A row of the catalogue or, with its place and its mark, of the list. */
  function line(row, place, mark) {
    titled(row);
    const node = make("li"), button = make("button", "row"), middle = make("span");
    button.type = "button";
    middle.append(make("span", "name", name(row.item)));
    const told = about(row.columns || {});
    if (told) middle.append(make("span", "about", told));
    if (row.sentence) middle.append(make("span", "why", row.sentence));
    if (place) button.append(make("span", "place", place));
    button.append(middle);
    if (mark) button.append(mark);
    button.addEventListener("click", () => click(row.item, place ? state.listId : null));
    node.dataset.item = row.item;
    node.append(button);
    return node;
  }

  // -- the list ------------------------------------------------------------------------------------------------------------

  function pulled() {
    const variety = Number($("variety").value);
    $("variety-says").textContent = variety ? `${variety * 10} %` : say("varietyNone");
  }

  async function refresh() {
    if (!state.keys) return;
    const turn = ++state.asked, user = state.user, variety = Number($("variety").value), filter = $("filter").value.trim();
    const ask = {
      user, k: Math.min(50, Math.max(1, Math.round(Number($("k").value)) || 10)), explain: true, language: state.language,
      diversity: variety ? "mmr" : "none",
    };
    if (variety) ask.balance = 1 - variety / 10;
    if (filter) ask.filter = filter;
    const fields = [state.title, ...(state.columns || [])].filter(Boolean);
    if (fields.length) ask.fields = fields;
    $("rows").setAttribute("aria-busy", "true");
    try {
      const list = await zhiyin.recommend(ask);
      if (turn !== state.asked) return;
      wrong(null);
      trouble(null);
      show(list);
    } catch (error) {
      if (turn !== state.asked) return;
      if (filter && (error.status === 400 || error.status === 422)) wrong(error); else trouble(error);
    } finally {
      if (turn === state.asked) $("rows").removeAttribute("aria-busy");
    }
  }

  /** Say beside the condition what is wrong with it; the list stays as it was. */
  function wrong(error) {
    const [first, ...code] = (error ? error.message : "").split("\n");
    const parts = error ? [first, code.length && make("code", "", code.join("\n")), make("span", "", error.remedy || "")] : [];
    $("filter-error").replaceChildren(...parts.filter(Boolean));
    if (error) $("filter").setAttribute("aria-invalid", "true"); else $("filter").removeAttribute("aria-invalid");
  }

  function show(list) {
    const before = state.places, tops = new Map();
    for (const node of $("rows").children) tops.set(node.dataset.item, node.getBoundingClientRect().top);
    const focused = $("rows").contains(document.activeElement) ? document.activeElement.closest("li").dataset.item : null;
    const counts = {new: 0, up: 0, down: 0};
    const nodes = list.items.map((row, at) => {
      const was = before && before.get(row.item);
      const kind = !before || was === at ? null : was === undefined ? "new" : was > at ? "up" : "down";
      if (kind) counts[kind] += 1;
      return line(row, at + 1, kind && mark(kind, Math.abs(at - (was ?? at))));
    });
    $("rows").replaceChildren(...nodes);
    $("empty").hidden = nodes.length > 0;
    if (focused !== null) {
      const same = nodes.find(node => node.dataset.item === focused);
      ((same && same.firstElementChild) || $("list")).focus({preventScroll: true});
    }
    state.places = new Map(list.items.map((row, at) => [row.item, at]));
    state.listId = list.list_id;
    const said = before ? say("moved", counts.new, counts.up, counts.down) : "";
    $("moved").textContent = said;
    toast(said);
    const degraded = (list.degraded || []).join(", ");
    $("made").textContent = [say("made", list.version, Math.max(1, Math.round(list.milliseconds))), degraded && say("degraded", degraded)].filter(Boolean).join(" · ");
    if (before && !still.matches) move(nodes, tops);
  }

  function mark(kind, by) {
    const node = make("span", `mark ${kind}`);
    if (kind === "new") node.textContent = say("isNew");
    else {
      const arrow = make("span", "", `${kind === "up" ? "▲" : "▼"} ${by}`);
      arrow.setAttribute("aria-hidden", "true");
      node.append(arrow, make("span", "hidden", say(kind, by)));
    }
    return node;
  }

  /** Rows slide from where they were. */
  function move(nodes, tops) {
    for (const node of nodes) {
      const was = tops.get(node.dataset.item);
      if (was === undefined) node.animate([{opacity: 0}, {opacity: 1}], {duration: 350, easing: "ease-out"});
      else {
        const by = was - node.getBoundingClientRect().top;
        if (by) node.animate([{transform: `translateY(${by}px)`}, {transform: "none"}], {duration: 350, easing: "cubic-bezier(.2, .7, .2, 1)"});
      }
    }
  }

  /** On a phone the list may be below the edge of the screen: say there that it changed. */
  let hide = 0;
  function toast(text) {
    clearTimeout(hide);
    const box = $("rows").getBoundingClientRect();
    $("toast").hidden = !text || box.top < innerHeight - 120;
    $("toast-says").textContent = text;
    hide = setTimeout(() => { $("toast").hidden = true; }, 6000);
  }

  // -- what people do --------------------------------------------------------------------------------------------------------

  function slowly(work, wait) {
    let timer = 0;
    return () => { clearTimeout(timer); timer = setTimeout(work, wait); };
  }
  const soon = slowly(refresh, 250);
  const on = (id, kind, work) => $(id).addEventListener(kind, event => { if (kind === "submit") event.preventDefault(); work(event); });

  on("keys", "submit", () => {
    const keys = {key: $("key").value.trim(), users: []};
    keep(sessionStorage, KEYS, JSON.stringify(keys));
    $("key").value = "";
    open(keys);
  });
  on("become", "submit", () => { const user = $("user").value.trim(); if (user) become(user); });
  on("stranger", "click", () => become(""));
  on("leave", "click", () => close(""));
  on("find", "submit", search);
  on("search", "input", slowly(search, 200));
  on("pulls", "submit", refresh);
  on("variety", "input", () => { pulled(); soon(); });
  on("k", "input", soon);
  on("filter", "input", slowly(refresh, 400));
  on("toast", "click", () => { $("toast").hidden = true; });
  for (const node of document.querySelectorAll("[data-language]")) {
    node.addEventListener("click", () => {
      speak(node.dataset.language);
      keep(localStorage, LANGUAGE, state.language);
      if (state.keys) { state.places = null; refresh(); search(); }
    });
  }
  addEventListener("hashchange", begin);
  begin();
})();
