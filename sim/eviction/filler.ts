/** Words that the embedded model was trained to read past: text between the facts of a task. */
import type { RandomStream } from "../random.js";

const WORDS = (
  "aby ac ahlfm aief aiwcgc akjyr apn aubvcl axt biu boqqz btetb buixo cfnyav ch ciw ck colniv coo " +
  "csslf cw dg djvpun dowuz dp dpieib dpu dq dqav dv dxwj echjwk egrom einlh ekpw emxulr en eqfuhn " +
  "ezpurh ffw fhsjda fhxf figro fijmxh fpg fwro gtmf ha hdmm hk hkj hlbfw hm hmqa hotr hqqgh hrkpfe " +
  "hrpa huc hwnsd hxhc hxkjda ic ieau ig igrq ihge injh ioxjwt iub iv iwlpx ixbe jb jjawcm jje jl jnv " +
  "jnydh jo joycql jt kab kede krbfmr lbahg leb lfd lppev lrokuq lv lx lzayah mc mdo mjlgy mkk mnauxa " +
  "mqral mtw mykav mypv nc ndbg ndf nehvjg niu nr nrxo nva ny obhtay obv ocj of ogncmw ojxddi okm onjka " +
  "onx os owyr pnz pqmlj psqopn purkaa pvwj qbaqw qchy qf qjtc qpokzd qxgs qxome rcdarl rgko rgkrfp rn " +
  "rq sanku sj spjx sqfdn srha ssvxd sucpi tfnc themea tkpv tlylvw ts tsmfzo tsmsz tsq ua ukilx ure " +
  "uvpdqe uwi uxxz uzqk vc ve vgnyw vvl vx vzu wavlb wc wfpdfs wg wkq wmj wmuyc wp wsac wzzbc xa xavedb " +
  "xdkc xoqr xq xuz xve ybo yfzew ytxxzm yvsz yx yyw zcvm zfjrc zjut zm zny zoxizo zwdtxh zwv"
).split(" ");

/** `count` different words of at most `longest` characters. */
export function differentWords(random: RandomStream, count: number, longest: number): string[] {
  return random.shuffle(WORDS.filter(({ length }) => length <= longest)).slice(0, count);
}

/** `count` words, each followed by a space. */
export function fillerWords(random: RandomStream, count: number): string {
  return Array.from({ length: count }, () => `${WORDS[random.below(WORDS.length)]} `).join("");
}

/** Words, each followed by a space, of at most `length` characters together. */
export function fillerText(random: RandomStream, length: number): string {
  let text = "";
  for (;;) {
    const word = `${WORDS[random.below(WORDS.length)]} `;
    if (text.length + word.length > length) return text;
    text += word;
  }
}
