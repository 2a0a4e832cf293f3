"""English words of sentiment, by strength from 1 (mild) to 3 (strong), and the words that turn or weigh them.

A word stands for its inflections where `sentiment_lexicon.stem` brings them to it; a phrase is written with spaces.
"""

POSITIVE = {
    1: """
        accurate adequate agreeable affordable alive available attentive authentic balanced bargain bright calm
        capable care caring cheap clean clear clever compact compatible comfy consistent convenient cool cosy cozy
        creamy crisp correct curious cute decent dependable detailed durable easy easily economical efficient
        effortless elegant energetic even fair familiar fashionable fast fine firm fit fits flexible fresh fun
        functional generous gentle genuine glad grateful handy happy harmless healthy helpful helped honest hope
        improve improved improvement improvements informative innovative inspire inspired inspiring instant
        instantly interesting intuitive juicy kind lasting legible lifelike light lightweight like liked likes
        lively long-lasting lovable lucky modern neat new nice nicely okay ok organised original painless patient
        peaceful plentiful polite pleased practical precise pretty prompt promptly proper properly quick quickly
        quiet quietly readable readily ready realistic reasonable recommended refreshing relaxed relaxing relevant
        responsive rich right roomy safe safely sane secure sensible sharp shiny silent silky simple smart smile
        smiled smooth smoothly snug soft solid soothing spacious special speedy stable steady straightforward strong
        stronger sturdy stylish succeed success successful suitable suits supportive sweet swift tasteful tender
        thank thanks thankful thorough tidy timely trust trusted trustworthy truthful understanding unique uplifting
        usable useable useful user-friendly valuable value vibrant vivid warm waterproof welcome welcoming well
        well-made well-written win witty works working worked worthwhile yummy bonus perk benefit advantage strength
        pleasure comfort comfortable quality taste flavourful exceed exceeded exceeds lasted lasts unbreakable
        effective holds sweetest freshly warmly friendly entertaining engaging polished promising satisfying tasty
        touching clarity depth flavour flavor praise priceless pro pros reliable reliably rested fixed solved crispy
        """,
    2: """
        admirable admire adorable adore appreciate appreciated attractive beautiful beautifully beauty best
        better brilliance celebrate charm charming cherish classy compelling convincing delicious delight
        delightful delighted enjoy enjoyed enjoyable enjoys enjoying enthralling excited exciting fabulous
        fascinating favorite favourite flawless flawlessly funny gem gorgeous great greatly gripping
        heartwarming hilarious impress impressed impressive ingenious insightful joy joyful laugh laughed
        laughing love loved lovely loves loving luxurious magical memorable moved moving outstanding perfectly
        pleasant pleasantly powerful recommend recommends recommending remarkable riveting rocks satisfied
        satisfaction spotless stunned stunning superior sublime terrific thrilled thrilling treasure treat
        unforgettable winner wonderfully worth worthy addictive captivating immersive must-have must-read
        must-see goodness good immaculate amazed bravo congratulations top-notch high-quality first-class
        unputdownable hooked gratifying blessing
        """,
    3: """
        amazing amazingly awesome breathtaking brilliant excellent excellently exceptional exquisite
        extraordinary fantastic glorious incredible magnificent marvellous marvelous masterpiece perfect
        perfection phenomenal spectacular splendid stellar sensational superb superbly unbeatable wonderful wow
        world-class unrivalled unmatched masterful masterly
        """,
}

NEGATIVE = {
    1: """
        ache aches adequate-less alas annoy average bland blurry bulky bump buggy bug bugs chaotic chipped
        clumsy clunky cold complain complained complaint complaints complicated con concern concerned concerns
        cons confused confusing costly cracked cramped crooked cry cumbersome damage damaged damages dark dated
        delay delayed delays dent dented difficult difficulty dim dirt dirty disagree discomfort discontinued
        dislike disliked dislikes distracting doubt doubtful drag dry dubious dull dusty error errors excuse
        expensive expired fade faded fades faint fake fault faults flat flaw flawed flaws flicker flimsy forced
        forget forgettable fragile freeze freezes friction fuss fussy generic glitch glitches glitchy greasy
        grainy hard hassle heavy hesitate hesitation hiccup hoped hurt hurts inaccurate inadequate incomplete
        inconsistent inconvenient inferior inflated insufficient irrelevant irritate issue issues itchy jam
        jammed jerky lag laggy lags lame late leak leaked leaking leaks lengthy limited limp lie lies lied loose
        loud mediocre meh mess messy missed missing mistake mistakes mixed mold mould mouldy muddy murky noise
        noisy obscure odd old outdated overhyped overlong overrated overpriced pain painful peeled peeling pity
        plain plastic pointless poorly predictable pricey problem problems questionable regret regrets
        repetitive return returned returning rigid rip rips ripped rough rushed rust rusty salty scratch
        scratched scratches shaky shallow short shrank shrunk sick silly sink slippery sloppy slow slower slowly
        small-minded smell smells smelled smelly sore sorry spill spills spoiled spoilt squeaky stain stained
        stains stale stiff sticky stopped struggle struggled stuck stuffy subpar suspicious tangled tear tears
        tedious thin tight tinny tired tiresome tiring torn trouble troubles typo typos ugly unclear
        uncomfortable uneven unfinished unfortunate unfortunately unnecessary unoriginal unpolished
        unprofessional unreadable unreliable unstable unsure unusual vague weak weaker wears weird wobble
        wobbles wobbly worn worry worse wrong wrinkled overheat overheats overheated excuses clogged clogs
        crease squeaks rattles fee fees avoidable dead died dies die downside drawback disadvantage weakness
        criticise criticize skip sad sadly
        """,
    2: """
        abysmally annoyed annoying annoyance angry avoid bad badly bored boring boredom bores broke broken
        breaks cheated clueless crap crappy crash crashed crashes cringe damaging deceived deceptive defect
        defective defects dishonest disappoint disappointed disappointing disappointment disappoints displeased
        dissatisfied dreadfully dumb fail failed fails failing failure frustrated frustrating frustration
        garbage hate hated hates ignorant incompetent infuriated insult insulting irritated irritating joke junk
        lack lacks lacked lacking lifeless mess miserable misleading nauseating negative neglect nonsense
        offensive outrageous painfully poor regretted reject rejected ridiculous ruin ruined ruins rude shabby
        shame shoddy stink stinks stupid suck sucks sucked terrible-ish tasteless unacceptable unbearable
        underwhelmed underwhelming unhappy unhelpful uninspired unpleasant unsafe unusable unwatchable upset
        upsetting useless uselessly waste wasted wastes worthless yawn yuck yucky lousy inedible careless
        disrespectful
        """,
    3: """
        abysmal appalling atrocious awful awfully detest disaster disastrous disgrace disgraceful disgust
        disgusted disgusting dreadful fraud fraudulent hideous horrendous horrible horribly horrid horrific
        loathe nightmare pathetic repulsive rubbish scam shameful sickening terrible terribly trash vile worst
        """,
}

# Expressions taken as one, whatever their words say. Those of strength 0 say nothing.
PHRASES = {
    "not only": 0, "not just": 0, "no doubt": 0, "no wonder": 0, "without doubt": 0, "without a doubt": 0,
    "without question": 0, "nothing but": 0, "nothing short of": 0, "no matter": 0, "if not for": 0,
    "why not": 0, "as well": 0, "well packed": 1, "look like": 0, "looks like": 0, "looked like": 0,
    "feel like": 0, "feels like": 0, "felt like": 0, "sounds like": 0, "something like": 0, "just like": 0,
    "works like": 0, "a lot": 0, "kind of": 0, "new one": 0, "even if": 0, "even though": 0, "so far": 0,
    "stays with you": 2, "going strong": 2, "cup of tea": 1, "can't stand": -2, "can not stand": -2,
    "couldn't stand": -2, "could not stand": -2, "can't complain": 1, "can not complain": 1,
    "cannot complain": 1, "can't fault": 2, "can not fault": 2, "can't wait": 2, "can not wait": 2,
    "can't go wrong": 2, "can not go wrong": 2, "can't get enough": 2, "can not get enough": 2,
    "could not ask for": 2, "couldn't ask for": 2, "could not put it down": 3, "couldn't put it down": 3,
    "wouldn't change": 2, "would not change": 2, "never gets old": 2, "never get old": 2, "game changer": 2,
    "life saver": 2, "lifesaver": 2, "hidden gem": 3, "second to none": 3, "spot on": 2, "thumbs up": 2,
    "thumbs down": -2, "five stars": 3, "5 stars": 3, "one star": -3, "1 star": -3, "zero stars": -3,
    "top notch": 2, "high quality": 2, "low quality": -2, "poor quality": -2, "good quality": 2,
    "state of the art": 2, "value for money": 2, "worth every penny": 3, "every penny": 2, "easy to": 1,
    "hard to put down": 3, "blown away": 3, "blew me away": 3, "made my day": 3, "let down": -2,
    "let me down": -2, "lets you down": -2, "waste of": -3, "fell apart": -3, "falls apart": -3,
    "falling apart": -3, "fall apart": -3, "fell off": -2, "falls off": -2, "came off": -2, "comes off": -2,
    "wear off": -2, "wore off": -2, "gave up": -2, "give up": -2, "ripped off": -3, "rip off": -3,
    "money back": -2, "send it back": -2, "sent it back": -2, "sending it back": -2, "took it back": -2,
    "threw it": -2, "look elsewhere": -2, "looking elsewhere": -2, "save your money": -2, "stay away": -3,
    "steer clear": -3, "keep away": -2, "think twice": -2, "false advertising": -3, "out of order": -2,
    "makes no sense": -2, "made no sense": -2, "no sense": -2, "no help": -2, "no use": -2, "no good": -2,
    "no idea": -1, "no point": -2, "at best": -1, "if only": -2, "i wish": -2, "wish i had": -2,
    "supposed to": -1, "used to be": -1, "run out": -1, "ran out": -1, "fell asleep": -2, "put me to sleep": -2,
    "over the top": -1, "nothing special": -2, "nothing more": -1, "nothing wrong": 2, "so so": -1, "so-so": -1,
    "don't bother": -2, "do not bother": -2, "won't turn on": -2, "doesn't fit": -2, "does not fit": -2,
    "didn't fit": -2, "wait for": 0, "waiting for": -1, "still waiting": -2, "gave me a headache": -2,
    "a headache": -2, "too good": 2, "too bad": -2, "must have": 1, "must read": 2, "must see": 2, "must buy": 2,
    "keep it up": 2, "well done": 2, "fed up": -2, "ended up": 0, "for sure": 0, "good luck": 0, "good bye": 0,
    "goodbye": 0, "better off": -1, "in love": 3, "more like": 0, "at least": 0, "last minute": 0,
    "right away": 0, "right now": 0, "all right": 1, "alright": 1, "have hoped": 0, "had hoped": 0,
    "i hoped": -1, "was hoping": -2, "were hoping": -2, "is fine": 1, "dies quickly": -2, "impossible not to": 0,
    "hard not to": 0, "difficult not to": 0, "can't help but": 0, "can not help but": 0, "who wouldn't": 0,
    "who would not": 0, "who doesn't": 0, "who does not": 0, "what's not to": 0, "what is not to": 0,
    "expected more": -2, "expected much more": -2, "expected better": -2, "expect more": -1, "expect better": -1,
    "don't waste": -2, "do not waste": -2, "meet my expectations": 2, "met my expectations": 2,
    "meet expectations": 2, "meets expectations": 2, "live up to": 2, "lived up to": 2, "lives up to": 2,
    "in case": 0, "lets me down": -2, "let us down": -2, "lets us down": -2, "put it down": -1, "had better": -2,
    "everything i need": 2, "everything you need": 2, "a breeze": 2, "can't imagine": 1, "can not imagine": 1,
    "hard drive": 0, "hard cover": 0, "light bulb": 0, "the light": 0, "short film": 0,
    "old one": 0, "long time": 0, "dry skin": 0, "customer care": 0, "pretty much": 0, "fresh air": 0,
    "on time": 2, "in time": 1,
}  # fmt: skip

NEGATIONS = """
        not no never none nobody nothing neither nor cannot without hardly scarcely barely rarely seldom nowhere
        n't isnt wasnt arent werent dont doesnt didnt wont wouldnt cant couldnt shouldnt havent hasnt hadnt aint
        """

# Expressions that turn what follows them.
NEGATING_PHRASES = (
    "far from", "anything but", "less than", "by no means", "in no way", "no longer", "not at all", "fail to",
    "fails to", "failed to", "lack of", "lacks", "lacked", "lacking", "devoid of", "free of", "free from",
    "unable to", "hard to", "difficult to", "impossible to", "tough to", "instead of", "rather than", "no one",
    "wanted to", "supposed to be", "refuse to", "refuses to", "refused to", "stopped", "stops",
    "too much to be", "could have been", "should have been", "could be", "should be", "used to be",
    "nowhere near", "gone",
)  # fmt: skip

INTENSIFIERS = {
    1.5: "very really so extremely absolutely totally completely incredibly highly super truly utterly exceptionally "
    "insanely remarkably seriously deeply strongly hugely perfectly thoroughly entirely beyond always constantly",
    1.2: "quite pretty too especially particularly definitely certainly simply just even more most much",
    0.6: "slightly somewhat rather fairly bit little mildly sometimes occasionally partly kinda sorta few",
}

# Words of no judgement that become one behind "too": too long, too loud.
EXCESSIVE = """
        long short big small large little heavy light loud quiet expensive cheap slow fast hot cold warm thin
        thick wide narrow tight loose dark bright soft hard salty sweet spicy bitter complicated simple high low
        deep shallow many much few far late early old new young rich dry wet strong weak sharp stiff sensitive
        easy clean predictable
        """

# "X but Y": Y is what is meant. "Although X, Y": likewise.
CONTRASTS = ("but", "however", "yet", "nevertheless", "nonetheless", "still", "though", "except", "only")
CONCESSIONS = ("although", "though", "even though", "despite", "in spite of", "while", "whilst", "even if", "albeit")
