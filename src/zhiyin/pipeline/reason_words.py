"""Words of reasons, in English and Chinese: sources, kinds of events, columns of users and of items."""

from __future__ import annotations

from typing import Any

# Kinds of events, in lower case, by the verb that says what was done.
_VERBS = {
    "bought": "purchase purchased buy bought order ordered transaction sale checkout pay paid 购买 下单",
    "viewed": "view viewed click clicked visit pageview detail open read 浏览 点击 阅读",
    "played": "play played watch watched listen listened stream streamed 播放 观看 收听",
    "rated": "rating rate rated review reviewed 评分 评价",
    "liked": "like liked love loved favorite favourite star upvote 喜欢 点赞",
    "saved": "save saved wishlist bookmark collect 收藏",
    "basket": "cart addtocart add_to_cart basket 加购",
}
_VERB_OF_KIND = {kind: verb for verb, kinds in _VERBS.items() for kind in kinds.split()}

# Columns of users by their names, in lower case: in English, and in Chinese.
_COLUMNS = {
    "age": ("age group", "年龄段"), "age_group": ("age group", "年龄段"), "agegroup": ("age group", "年龄段"),
    "gender": ("gender", "性别"), "sex": ("gender", "性别"), "occupation": ("occupation", "职业"),
    "job": ("occupation", "职业"), "profession": ("occupation", "职业"), "country": ("country", "国家"),
    "region": ("region", "地区"), "province": ("province", "省份"), "state": ("state", "省份"),
    "city": ("city", "城市"),
    "town": ("town", "城镇"), "zip": ("area", "所在地区"), "zip_code": ("area", "所在地区"),
    "zipcode": ("area", "所在地区"), "language": ("language", "语言"), "device": ("device", "设备"),
    "income": ("income group", "收入水平"), "education": ("education", "学历"), "level": ("level", "等级"),
    "membership": ("membership", "会员等级"), "member": ("membership", "会员等级"), "plan": ("plan", "套餐"),
    "segment": ("group", "用户群"), "interests": ("interests", "兴趣"), "interest": ("interests", "兴趣"),
}  # fmt: skip

WORDS: dict[str, dict[str, Any]] = {
    "en": {
        "because": "Because {}",
        "and": " and ",
        "quote": "“{}”",
        "verbs": {
            "bought": "you bought {}", "viewed": "you viewed {}", "played": "you played {}", "rated": "you rated {}",
            "liked": "you liked {}", "saved": "you saved {}", "basket": "you put {} into the basket",
            "": "you had {}",
        },
        "columns": "Because of your {}",
        "item": "Because of its {}",
        "history": "Because of what you did before",
        "fill": "Popular with everyone",
        "rules": "rules: {}",
        "comma": "; ",
        "list": ", ",
        "steps": {"mmr": "for variety", "dpp": "for variety", "calibrate": "spread as your history"},
        "stop": ".",
        "kinds": {
            "popular": "popular these days",
            "segmentpopular": "popular with people like you",
            "popularincategory": "popular in what you like",
            "itemknn": "people who had that also had this",
            "ease": "goes with what you had",
            "als": "liked by people of your taste",
            "transitions": "often comes next",
            "content": "described alike",
            "hybrid": "alike in kind and in taste",
            "twotower": "described like what you had",
            "friends": "liked by people you follow",
            "new": "new, and like what suits you",
            "sasrec": "fits the order of what you did",
            "gru4rec": "fits the order of what you did",
            "ratingblend": "you would rate it high",
            "other": "named by {}",
        },
    },
    "zh": {
        "because": "因为{}",
        "and": "，",
        "quote": "“{}”",
        "verbs": {
            "bought": "您买过{}", "viewed": "您看过{}", "played": "您播放过{}", "rated": "您评价过{}",
            "liked": "您喜欢过{}", "saved": "您收藏过{}", "basket": "您加购过{}", "": "您选过{}",
        },
        "columns": "因为您的{}",
        "item": "因为它的{}",
        "history": "因为您以前的行为",
        "fill": "大家都喜欢",
        "rules": "规则：{}",
        "comma": "；",
        "list": "、",
        "steps": {
            "mmr": "多样性",
            "dpp": "多样性",
            "calibrate": "按您的历史分布",
            "pin": "固定位置",
            "boost": "加权",
            "exposure": "曝光目标",
            "rotate": "轮换",
            "cap": "每组上限",
            "share": "最低占比",
            "dedupe": "去除同款",
        },
        "stop": "。",
        "kinds": {
            "popular": "近期热门",
            "segmentpopular": "与您相似的人中的热门",
            "popularincategory": "您喜欢的类别中的热门",
            "itemknn": "选了它们的人也选了这个",
            "ease": "与您选过的相配",
            "als": "与您口味相近的人喜欢",
            "transitions": "常常接着被选择",
            "content": "内容相似",
            "hybrid": "内容与口味都相近",
            "twotower": "描述与您选过的相似",
            "friends": "您关注的人喜欢",
            "new": "新上架，与适合您的相似",
            "sasrec": "符合您的选择顺序",
            "gru4rec": "符合您的选择顺序",
            "ratingblend": "预计您会给高分",
            "other": "由 {} 推荐",
        },
    },
}  # fmt: skip


def verb_of_kind(kind: str, has_value: bool = False) -> str:
    """What an event of a kind is called: a key of `verbs`. has_value: an event of no known kind is then a rating."""
    return _VERB_OF_KIND.get(kind.lower(), "rated" if has_value else "")


def column_words(column: str, language: str) -> str:
    """A column of users as people call it."""
    known = _COLUMNS.get(column.lower())
    if known is not None:
        return known[language == "zh"]
    return column.replace("_", " ") if language == "en" else f"“{column}”"
