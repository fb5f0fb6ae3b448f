"""The plots of the story grammar: a seeded random source in, one finished story out.

A story is an opening, one plot and an ending. Every plot is a small chain of cause and consequence (something is
lost, so someone is sad, so a friend helps, so it is found) and fills the same context names: ``h`` the hero,
``h1`` the hero at first mention, ``f`` a friend, ``g`` a grown-up of the family, ``day`` the words that begin the plot.
"""

import random

from phrases import (COLORS, FOODS, HIDING_PLACES, INDOOR_SPOTS, OUTDOOR_SPOTS, PLACES, PLANTS, SMALL_ANIMALS, TOYS, TRAITS,
                     WISE_ANIMALS, Teller, animal, child, family, friend)

OPEN_PLACES = ["the park", "the garden", "the meadow", "the beach", "the playground"]


def story(rng: random.Random, favour: float = 0.0) -> str:
    """One story of about ten to twenty sentences; ``favour`` is the share of choices that take the first option."""
    t = Teller(rng, favour)
    hero = child(t) if t.chance(0.62) else animal(t)
    t.let(h=hero)
    t.go_to(t.pick(PLACES))
    t.let(f=friend(t, hero), g=family(t, hero))
    plot = t.pick(PLOTS)
    opening(t)
    plot(t)
    ending(t)
    return t.text()


def opening(t: Teller):
    """Introduces the hero, or leaves that to the plot's first sentence; sets ``h1`` and ``day`` to match."""
    trait, other = t.pair(TRAITS)
    t.let(trait=trait, other=other, weather=t.fill("[sunny|warm|bright|beautiful|nice|cold|windy]"))
    kind = t.rng.random()
    t.let(h1=t.context["h"].name, day="[One day|One day|One morning|One afternoon|One {weather} day|One {weather} morning],")
    if kind < 0.40:
        t.say("[Once upon a time|Once upon a time|Long ago], there was {h.intro}.",
              "Once upon a time, there was {h.intro} who lived "
              "[in a small house|in a little house|near {place}|in a big house] with {h.p} family.",
              "Once upon a time, in a [small town|little village|green valley], there lived {h.intro}.",
              "There once was {h.intro}.")
        about(t)
    elif kind < 0.60:
        t.say("{h.name} lived [in a small house|in a little house|near {place}|in a big house] with {h.p} family.",
              "{h.name} was very {trait}.", "{h.name} [loved|liked] to [play|play outside|sing|dance|run|help others].",
              "{h.name} was {trait} and {other}." if t.context["h"].name.startswith("the ")
              else "{h.name} was a [{trait}|very {trait}|little|small] {h.noun} who [loved|liked] to "
                   "[play|play outside|sing|dance|run|help others].")
        t.maybe(0.5, "{h.s} liked to [sing|dance|play|draw|run and jump|look at the clouds|read books].",
                "{h.s} had many friends.", "everyone liked {h.o} because {h.s} was so {other}.")
    elif kind < 0.72:
        t.say("It was a {weather} [day|morning|afternoon].", "The sun was shining and the sky was blue.",
              "It was a {weather} day and the birds were singing.")
        t.let(h1=t.pick([t.context["h"].intro, t.context["h"].name]), day="")
    elif kind < 0.86:
        t.let(h1=t.pick([t.context["h"].intro, t.context["h"].name]))
    else:
        t.let(day="")


def about(t: Teller):
    """One or two habits of a hero who has just been introduced."""
    habits = ("[play outside|play with {h.p} friends|sing and dance|run and jump|look at the stars|"
              "help {h.p} {g.noun}].")
    t.say("{h.name} was very {trait}.",
          "{h.name} was {trait} and {other}.",
          "{h.name} [loved|liked] to " + habits, "{h.s} [loved|liked] to " + habits,
          "Every day, {h.s} [played {at}|went to {place}|walked to {place}].",
          "{h.name} had a good friend named {f.name}.")


def ending(t: Teller):
    t.maybe(0.5, "It was [a very good day|the best day ever|a day to remember].",
            "That night, {h.name} [slept well|had a happy dream|fell asleep with a smile].",
            "{h.name} was [very happy|so happy|proud and happy].",
            "{h.name} went home with a big smile.",
            "And they all lived happily ever after.")
    t.maybe(0.12, "The end.")


def lost_thing(t: Teller):
    spots = t.pair(OUTDOOR_SPOTS)
    t.let(color=t.pick(COLORS), toy=t.pick(TOYS), spot=spots[0], found=spots[1])
    t.go_to(t.pick(OPEN_PLACES))
    t.say("{day} {h1} went to {place} with {h.p} {color} {toy}.", "{day} {h1} took {h.p} {color} {toy} to {place}.")
    t.maybe(0.6, "It was {h.p} favorite toy.", "{h.s} took it everywhere.", "The {toy} was a gift from {g.name}.")
    t.say("{h.s} [ran and jumped|climbed a tree|looked at a butterfly|picked some flowers] and forgot about the {toy}. "
          "When {h.s} [came back|looked for it|wanted to go home], the {toy} was gone.")
    t.say("{h.name} was [very sad|so sad|sad] and began to cry.", '"Oh no! Where is my {toy}?" cried {h.name}.',
          '"My {toy} is gone!" cried {h.name}.')
    t.say('{f.intro} [saw {h.o}|heard {h.o}] and asked, "Why are you sad?" "I lost my {toy}," said {h.name}.',
          'Then {f.intro} came by. "What is wrong?" asked {f.name}. "I cannot find my {toy}," said {h.name}.')
    t.say('"Do not worry. I will help you," said {f.name}.', '"Let us look for it together," said {f.name}.')
    t.say("They looked {spot}, but the {toy} was not there. Then they looked {found}, and there it was!",
          "First, they looked {spot}. It was not there. Then {f.name} looked {found} and found the {color} {toy}.")
    t.say('{h.name} hugged {f.name} and said, "Thank you! You are a good friend."',
          '"Thank you, {f.name}!" said {h.name}. {h.s} was happy again.')
    t.maybe(0.6, "They played with the {toy} [all day|until the sun went down|until it was time to go home].")


def sharing_food(t: Teller):
    t.let(food=t.pick(FOODS), a=animal(t, SMALL_ANIMALS, named=False, unlike=t.context["h"]))
    t.go_to(t.pick(OPEN_PLACES))
    t.say("{day} {h1} was sitting {at} with a big {food}.", "{day} {h1} went to {place} to eat a {food}.",
          "{day} {h1} had a {food} for lunch and went to {place} to eat it.")
    t.say("{h.s} saw {a.intro} [under a tree|near the path|on the grass]. {a.name} looked "
          "[hungry|sad and hungry|cold and hungry].")
    t.say('"Are you hungry?" asked {h.name}. "Yes," said {a.name}. "I have no food."',
          '"What is wrong?" asked {h.name}. "I am so hungry," said {a.name}.')
    t.say("{h.name} looked at the {food}. {h.s} was hungry too, but {h.s} wanted to share.",
          "{h.name} thought for a moment. Then {h.s} smiled.")
    t.say('{h.s} gave half of the {food} to {a.name}. "Here you are," said {h.name}.',
          'So {h.s} cut the {food} in two. "One piece for you and one piece for me," said {h.name}.')
    t.say('{a.name} ate it all and said, "Thank you! You are very kind."',
          '"Thank you!" said {a.name}. "This is very good."')
    t.say("After that, they [played together|became friends|sat in the sun together].",
          "Now {h.name} had a new friend. They played together every day.")
    t.maybe(0.5, "{h.name} learned that sharing makes everyone happy.", "It felt good to share.")


def afraid(t: Teller):
    fear, thing, did = t.pick([
        ("the dark", "the dark room", "walked into the dark room"),
        ("the deep water", "the lake", "jumped into the water"),
        ("the high slide", "the high slide", "went down the slide"),
        ("the big horse", "the big horse", "touched the horse"),
        ("the tall ladder", "the tall ladder", "climbed up the ladder"),
        ("the old bridge", "the old bridge", "walked over the bridge")])
    t.let(fear=fear, thing=thing, did=did)
    t.say("{day} {h1} was with {f.intro}. They [were happy|played and laughed] until they saw {thing}.",
          "{day} {h1} and {f.intro} went for a walk. Soon they came to {thing}.")
    t.say("{h.name} was afraid of {fear}.", "{h.name} stopped. {h.s} was afraid of {fear}.")
    t.say('"I cannot do it," said {h.name}. "I am scared."', '"I am too scared," said {h.name}.',
          '"I want to go home," said {h.name} in a small voice.')
    t.say('"I was scared too," said {f.name}. "Hold my hand and we will do it together."',
          '"You can do it!" said {f.name}. "I will stay with you."', '"Do not be afraid," said {f.name}. "I am here."')
    t.say("{h.name} took a deep breath. {h.s} held {f.name} by the hand and took one small step.",
          "{h.name} closed {h.p} eyes and counted to three.", "{h.name} thought about it for a long time.")
    t.say("Then {h.s} {did}. It was not so bad!", "Then {h.s} {did}, and nothing bad happened.")
    t.say('"I did it!" shouted {h.name}. {f.name} [clapped and smiled|was proud of {h.o}|gave {h.o} a big hug].',
          '"Look at me!" laughed {h.name}. "I am not afraid!"')
    t.maybe(0.6, "After that, {h.name} was not afraid of {fear} anymore.", "{h.name} felt very brave.")


def broken_thing(t: Teller):
    t.let(thing=t.fill("[vase|cup|lamp|plate|window|clock]"), spot=t.pick(HIDING_PLACES), color=t.pick(COLORS))
    t.say("{day} {h1} was playing with a ball in the house.", "{day} {h1} was running and jumping in the house.")
    t.maybe(0.5, '"Please be careful," said {g.name}, but {h.name} did not listen.')
    t.say("Then there was a loud noise. The {color} {thing} [fell down and broke|was broken]!",
          "{h.name} hit the {color} {thing}, and it [fell and broke|broke].")
    t.say("{h.name} was scared. {h.s} hid {spot}.", "{h.name} did not know what to do, so {h.s} hid {spot}.")
    t.say('{g.name} came in and asked, "Who broke the {thing}?"', '"What happened to the {thing}?" asked {g.name}.')
    t.say("At first, {h.name} said nothing. But {h.s} felt bad inside.",
          "{h.name} wanted to run away, but {h.s} knew that was wrong.")
    t.say('"I did it," said {h.name}. "I am very sorry."', 'So {h.s} came out and said, "I broke it. I am sorry."')
    t.say('{g.name} was not angry. "Thank you for telling the truth," {g.s} said.',
          '{g.name} gave {h.o} a hug and said, "It is good that you told me the truth."')
    t.say("Together, they [cleaned the floor|picked up the pieces|fixed the {thing}].")
    t.maybe(0.6, "{h.name} learned to [tell the truth|be careful in the house].",
            "After that, {h.name} played with the ball outside.")


def rescue(t: Teller):
    trap, tool, act = t.pick([
        ("stuck in a tall tree", "a ladder", "climbed up and carried {a.o} down"),
        ("stuck in a deep hole", "a long rope", "pulled {a.o} out of the hole"),
        ("stuck in the mud", "a big stick", "pulled {a.o} out of the mud"),
        ("caught in a net", "a pair of scissors", "cut the net and set {a.o} free"),
        ("stuck on a rock in the river", "a small boat", "brought {a.o} back to the grass")])
    t.let(a=animal(t, SMALL_ANIMALS, named=False, unlike=t.context["h"]))
    t.go_to(t.pick(["the forest", "the river", "the farm", "the meadow", "the lake"]))
    t.let(trap=trap, tool=tool, act=act)
    t.say("{day} {h1} was walking [near|to] {place}.", "{day} {h1} went for a walk near {place}.")
    t.say('{h.s} heard a small voice. "Help! Help!" it cried.', "Then {h.s} heard someone cry for help.")
    t.say("{h.name} looked around and saw {a.intro}. {a.name} was {trap}.", "It was {a.intro}. {a.name} was {trap}.")
    t.say('"Do not worry," said {h.name}. "I will get help."', '"Wait here," said {h.name}. "I will be right back."')
    t.say("{h.name} ran home and told {g.name}. They came back with {tool}.",
          "{h.name} ran to {f.intro}, and they came back with {tool}.")
    t.say("Very slowly, {h.name} {act}.", "It was hard work, but {h.name} {act}.")
    t.say('"Thank you for saving me!" said {a.name}.', '"You saved me!" said {a.name}. "Thank you so much."')
    t.say("{h.name} gave {a.o} some [water|food|milk] and a warm blanket.", "{a.name} was safe and happy again.")
    t.maybe(0.7, "After that, {a.name} came to visit {h.name} every day.", "They became best friends.")


def building(t: Teller):
    thing, parts, trouble, fix = t.pick([
        ("sand castle", "sand and shells", "a big wave washed it away", "built it again, far away from the water"),
        ("kite", "paper and string", "the wind tore it", "made a new one with strong paper"),
        ("tower", "wooden blocks", "it fell down with a loud noise", "put the big blocks at the bottom"),
        ("tree house", "wood and nails", "the rain came in", "put a good roof on it"),
        ("boat", "wood and paper", "it was too heavy and sank", "made a small and light one"),
        ("house for the birds", "wood and nails", "the roof fell off", "made a stronger roof"),
        ("bridge", "sticks and stones", "the river broke it", "used bigger stones")])
    t.let(thing=thing, parts=parts, trouble=trouble, fix=fix)
    t.say("{day} {h1} wanted to [build|make] a {thing}.",
          '{day} {h1} had an idea. "I will make a {thing}," {h.s} said.')
    t.say("{h.s} got some {parts} and went to work.", "{h.s} found some {parts} and started to work.")
    t.say("{h.s} worked [all morning|very hard|for a long time]. But then {trouble}.",
          "Soon the {thing} was ready. But then {trouble}.")
    t.say('{h.name} was sad. "It will never work," {h.s} said.', '"Oh no!" cried {h.name}. "All my work is gone!"',
          "{h.name} felt angry and sat down on the ground.")
    t.say('{f.intro} came by and said, "Do not give up. Try again!"',
          '"Do not be sad," said {f.intro}. "We can try again together."',
          '{g.name} smiled and said, "Everyone makes mistakes. Try one more time."')
    t.say("So {h.name} tried again. This time, {h.s} {fix}.", "{h.name} thought about it. Then {h.s} {fix}.")
    t.say("Now the {thing} was [perfect|strong|even better than before]!",
          "It worked! The {thing} was [perfect|wonderful|great].")
    t.maybe(0.7, '"We did it!" said {h.name}.',
            "{h.name} was very proud.",
            "{h.name} learned that it is good to try again.")


def gift(t: Teller):
    t.let(gift=t.fill("[a picture|a card|a cake|a necklace|a basket of flowers|a warm scarf]"))
    t.say("{day} {h1} remembered that it was the birthday of {g.name}.",
          "{day} {h1} wanted to make something special for {g.name}.")
    t.say('"What can I give {g.o}?" thought {h.name}.', "{h.name} had no money to buy a gift.")
    t.say('{h.s} asked {f.intro} for help. "You can make {gift}," said {f.name}.',
          "Then {h.s} had a good idea. {h.s} would make {gift}.")
    t.say("{h.name} worked on it all [day|morning|afternoon].", "{h.s} worked very hard and made {gift}.")
    t.maybe(0.5, "It was not easy, but {h.s} did not stop.", "{f.name} helped {h.o} a little.")
    t.say('When it was ready, {h.s} ran to {g.name}. "This is for you!" {h.s} said.',
          'In the evening, {h.name} gave it to {g.name}. "Happy birthday!" said {h.name}.')
    t.say('{g.name} was so surprised. "It is beautiful," {g.s} said. "Did you make this?"',
          '{g.name} smiled. "This is the best gift ever," {g.s} said.')
    t.say("{g.s} gave {h.name} a big hug.", "They hugged and ate some cake together.")
    t.maybe(0.5, "{h.name} learned that the best gifts come from the heart.")


def rainy_day(t: Teller):
    t.let(game=t.fill("[made a tent out of blankets|played hide and seek|read a funny book|drew pictures|"
                      "built a train out of boxes|sang songs]"))
    t.go_to(t.pick(OPEN_PLACES))
    t.say("{day} {h1} wanted to go to {place} with {f.intro}.", "{day} {h1} was ready to play {at}.")
    t.say("But then dark clouds came, and it started to rain.", "But it began to rain. Drip, drop, drip, drop!")
    t.say('"Now we cannot play outside," said {h.name}. {h.s} was sad.',
          "{h.name} looked out of the window and felt sad.",
          '"I do not like the rain," said {h.name}.')
    t.say('"We can play inside," said {g.name}.',
          '{g.name} had an idea. "There is a lot to do in the house," {g.s} said.')
    t.say("So they {game}. It was a lot of fun.", "They {game} and laughed a lot.")
    t.say("After a while, the rain stopped. The sun came out again.", "Soon the rain was over, and the sun came out.")
    t.say('"Look!" said {h.name}. There was a big rainbow in the sky.', "There was a beautiful rainbow in the sky.")
    t.say("{h.name} ran outside and jumped in all the puddles.",
          "They went outside and looked at the colors of the rainbow.")
    t.maybe(0.6, '"Maybe rain is not so bad," said {h.name}.', "{h.name} learned that rainy days can be fun too.")


def baking(t: Teller):
    t.let(cake=t.fill("[a cake|some cookies|a pie|some bread]"),
          miss=t.fill("[sugar|butter|milk|flour]"), fruit=t.fill("[apples|berries|nuts|honey]"))
    t.let(it="it" if t.context["cake"][:2] == "a " else "them" if "cookies" in t.context["cake"] else "it")
    t.say("{day} {h1} wanted to bake {cake} with {g.name}.",
          '{day} {h1} was in the kitchen with {g.name}. "Let us bake {cake}," said {g.name}.')
    t.say("They needed flour, eggs, milk and {fruit}.", "First, they washed their hands. Then they got a big bowl.")
    t.say("But there was no {miss} in the house.", '"Oh no! We have no {miss}," said {g.name}.')
    t.say('"I will ask my friend {f.name}," said {h.name}. {h.s} ran to the house next door.',
          "{h.name} went to {f.intro} and asked for some {miss}.")
    t.say('{f.name} gave {h.o} some {miss}. "Can I help you?" asked {f.name}. "Yes, of course!" said {h.name}.',
          '"Here is some {miss}," said {f.name}. {h.name} thanked {f.o} and ran back home.')
    t.say("They mixed everything together and put {it} in the oven.",
          "Together, they mixed everything in the bowl and waited.")
    t.say("Soon the whole house smelled good.", "After a while, it smelled so good in the kitchen.")
    t.say("{h.name} shared {it} with {f.name}, and they ate until they were full.",
          "Everyone got a big piece, and {f.name} got one too.")
    t.maybe(0.5, '"This is so good!" said {h.name}.', '"We make a good team," said {g.name}.')


def lost_way(t: Teller):
    t.let(a=animal(t, WISE_ANIMALS, named=False, unlike=t.context["h"]),
          lure=t.fill("[a butterfly|a white rabbit|a pretty bird|a shiny bug|a red leaf in the wind]"))
    t.say("{day} {h1} was playing near the forest and saw {lure}.", "{day} {h1} saw {lure} and wanted to catch it.")
    t.say("{h.s} ran after it, deeper and deeper into the forest.",
          "{h.s} followed it for a long time and did not look back.")
    t.say("Then {h.s} stopped. There were trees everywhere, and {h.s} did not know the way home.",
          "When {h.s} looked around, {h.s} was lost.")
    t.say('"Where am I?" said {h.name}. {h.s} was [scared|very scared|afraid] and began to cry.',
          "It was getting dark. {h.name} was scared.")
    t.say('Then {h.s} met {a.intro}. "Why are you crying?" asked {a.name}. "I am lost," said {h.name}.',
          '{a.intro} came out of the trees. "Are you lost?" {a.s} asked. "Yes," said {h.name}. "I want to go home."')
    t.say('"I know the way," said {a.name}. "Come with me."',
          '"I can help you," said {a.name}. "Follow the river, and you will see your house."')
    t.say("They walked [past the old bridge|along the river|over the hill], and soon {h.name} saw the lights of {h.p} house.",
          "{h.name} did what {a.name} said. Soon {h.s} saw {h.p} house.")
    t.say('{g.name} was waiting at the door. "I was so worried!" {g.s} said and hugged {h.o}.',
          "{g.name} ran to {h.o} and gave {h.o} a big hug.")
    t.maybe(0.6, '"I will never go so far away again," said {h.name}.', "{h.name} learned to stay close to home.")


def race(t: Teller):
    t.let(prize=t.fill("[a gold cup|a big cake|a red ribbon|a new ball]"))
    t.go_to(t.pick(["the park", "the farm", "the meadow", "the hill"]))
    t.say("{day} there was a big race {at}. {h1} wanted to win.",
          "{day} {h1} wanted to win the big race. The prize was {prize}.")
    t.say("{f.intro} was in the race too.", "{f.intro} wanted to win too.")
    t.say('"One, two, three, go!" {h.name} ran as fast as the wind.',
          "The race began. {h.name} was very fast, and soon {h.s} was the first.")
    t.say("But then {f.name} fell down and hurt {f.p} [leg|knee|foot].",
          '"Ouch!" cried {f.name}. {f.s} fell over a stone.')
    t.say("{h.name} looked back. {h.s} wanted to win, but {h.p} friend needed help.",
          "{h.name} stopped. What should {h.s} do?")
    t.say('{h.s} went back and asked, "Are you hurt? Let me help you."',
          "{h.s} ran back and helped {f.name} to stand up.")
    t.say("They walked to the end together, hand in hand. They were the last, but everyone clapped.",
          "Together, they went on, step by step. When they came to the end, everyone clapped.")
    t.say('"You did not win the race, but you are a good friend," said {g.name}.',
          '"Thank you for helping me," said {f.name}. "You are the best friend."')
    t.maybe(0.5, "{h.name} learned that friends are better than a prize.")


def seed(t: Teller):
    t.let(plant=t.pick(PLANTS))
    t.say("{day} {h1} found a small seed [on the path|in the garden|in a box].",
          "{day} {h1} got a small seed from {g.name}.")
    t.say('"What is it?" asked {h.name}. "Plant it and wait," said {g.name}.',
          '"If you give it water and sun, it will grow," said {g.name}.')
    t.say("{h.name} made a little hole in the ground and put the seed in it.",
          "{h.name} planted the seed in the garden.")
    t.say("Every day, {h.s} gave it some water. But nothing happened.",
          "{h.s} gave it water every morning. {h.s} waited and waited.")
    t.say('"Why does it not grow?" asked {h.name}. "Good things need time," said {g.name}.',
          "{h.name} was sad because there was nothing to see.")
    t.say("Then, one morning, there was a small green leaf.", "But one day, {h.s} saw something green in the ground.")
    t.say("It grew and grew. At last, it was a big {plant}!",
          "The plant got bigger every day, and soon it was a beautiful {plant}.")
    t.say("{h.name} called {f.intro} to show it to {f.o}.", '"Look what I have!" said {h.name} to {f.intro}.')
    t.maybe(0.7, '"It is beautiful," said {f.name}.', "{h.name} learned to wait for good things.")


def new_friend(t: Teller):
    t.let(game=t.fill("[with a ball|hide and seek|on the swings|in the sand|with a kite]"))
    t.go_to(t.pick(["the park", "the playground", "the garden", "the beach"]))
    t.say("{day} {h1} went to {place} to play.", "{day} {h1} was playing {at}.")
    t.say("There {h.s} saw a {f.noun} who sat alone [on a bench|under a tree|on the grass].",
          "A {f.noun} was sitting alone [on a bench|under a tree|near the fence].")
    t.say("The {f.noun} looked [sad|shy|a little sad].", "{h.name} had never seen the {f.noun} before.")
    t.say('{h.name} walked over and said, "Hello! My name is {h.name}. What is your name?"' if t.context["h"].name[0].isupper()
          else 'So {h.s} walked over and said, "Hello! What is your name?"')
    t.say('"My name is {f.name}," said the {f.noun}. "I am new here, and I have no friends."',
          '"I am {f.name}," said the {f.noun} in a quiet voice.')
    t.say('"Do you want to play with me?" asked {h.name}.',
          '"You can play with me," said {h.name}. "I will be your friend."')
    t.say("{f.name} smiled and said yes.", '"Yes, please!" said {f.name} with a big smile.')
    t.say("They played {game} all [day|afternoon|morning] and laughed a lot.",
          "They played {game} until the sun went down.")
    t.maybe(0.7, "Now {h.name} and {f.name} were best friends.", "After that, they played together every day.")


def noise_at_night(t: Teller):
    t.let(a=animal(t, SMALL_ANIMALS, named=False, unlike=t.context["h"]), spot=t.pick(INDOOR_SPOTS),
          noise=t.fill("[tap, tap, tap|scratch, scratch|bump, bump|squeak, squeak]"))
    t.let(day="That night," if t.sentences and not t.context["day"] else "One night,")
    t.say("{day} {h1} was in bed and could not sleep.", "{day} {h1} woke up in the dark.")
    t.say('There was a strange noise. "{noise}!"', "{h.s} heard a strange noise {spot}.")
    t.say('"Is it a monster?" thought {h.name}. {h.s} was afraid.', "{h.name} pulled the blanket over {h.p} head.")
    t.say('"{g.noun}!" called {h.name}. {g.name} came in with a light.',
          "{h.s} called {g.name}, and {g.s} came in with a small lamp.")
    t.say('"Let us look together," said {g.name}.', '"Do not be afraid," said {g.name}. "Let us see what it is."')
    t.say("They looked {spot}, and there was {a.intro}!",
          "Slowly, they looked {spot}. It was not a monster. It was {a.intro}!")
    t.say('{h.name} laughed. "You are not a monster," {h.s} said.',
          '"Hello, little {a.noun}," said {h.name}. "You are cold and lost."')
    t.say("They gave {a.name} some [milk|bread|water] and a warm place to sleep.",
          "{a.name} was only looking for a warm place to sleep.")
    t.maybe(0.6, "Then {h.name} went back to bed and slept until the morning.",
            "After that, {h.name} was not afraid of the dark.")


def too_many(t: Teller):
    t.let(sweets=t.fill("[cookies|candies|berries|cakes|apples|buns]"), spot=t.fill("[on the table|on the shelf|in the kitchen]"))
    t.say("{day} {h1} saw a big bowl of {sweets} {spot}.", "{day} {h1} helped {g.name} to make a lot of {sweets}.")
    t.say('"You may eat one," said {g.name}. "The others are for later."', '"Only one for now," said {g.name}.')
    t.say("{h.name} ate one. It was so good that {h.s} ate one more, and then one more.",
          "But {h.name} did not listen. {h.s} ate and ate.")
    t.say("Soon the bowl was empty.", "At last, there were no {sweets} left.")
    t.say('Then {h.p} tummy began to hurt. "Ow, ow!" cried {h.name}.',
          "But now {h.name} felt sick. {h.p} tummy hurt a lot.")
    t.say('{f.intro} came to visit and asked, "Are there any {sweets} for me?" {h.name} felt very bad.',
          "When {h.p} friend {f.name} came, there was nothing left to share.")
    t.say('"I am sorry," said {h.name}. "I ate them all."', "{h.name} told the truth and said sorry.")
    t.say('"Next time, we will share," said {f.name}.',
          '{g.name} gave {h.o} some warm tea and said, "Now you know why one is enough."')
    t.maybe(0.6, "{h.name} learned not to be greedy.",
            "The next day, they made new {sweets}, and {h.name} gave the first one to {f.name}.")


PLOTS = [lost_thing, sharing_food, afraid, broken_thing, rescue, building, gift, rainy_day, baking, lost_way, race, seed,
         new_friend, noise_at_night, too_many]
