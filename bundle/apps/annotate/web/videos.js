// The videos of a project: one row each, a search field, keys. The server owns all state; what is looked
// for and which row is picked stay here.

export default {
  template: `
    <div class="tcmn-list">
      <div class="tcmn-search">
        <i class="material-icons">search</i>
        <input ref="search" v-model="search" data-testid="search" type="search"
          placeholder="Search by name, patient, stage or person (/)" aria-label="Search">
        <span class="tcmn-about" data-testid="found">{{ shown.length }} of {{ videos.length }}</span>
      </div>
      <div class="tcmn-rows" ref="rows" role="listbox" aria-label="Videos">
        <div v-for="video in shown" :key="video.name" class="tcmn-file" role="option"
          :class="{ 'tcmn-on': video.name === picked, 'tcmn-shut': video.openBy || video.problem }"
          :aria-selected="video.name === picked" :data-name="video.name" data-testid="video"
          @click="picked = video.name; open()" @mousemove="picked = video.name">
          <div class="tcmn-thumb"><img v-if="video.thumbnail" :src="video.thumbnail" alt=""></div>
          <div class="tcmn-what">
            <div class="tcmn-video-name">{{ video.name }}</div>
            <div class="tcmn-about">{{ video.length }}</div>
            <div v-if="video.openBy" class="tcmn-warn">open by {{ video.openBy }}</div>
            <div v-if="video.problem" class="tcmn-error">{{ video.problem }}</div>
          </div>
          <div><span class="tcmn-stage" :class="'tcmn-is-' + video.stage.split(' ')[0]">{{ video.stage }}</span></div>
          <div class="tcmn-cell"><b>{{ video.worst || "-" }}</b><span>worst confidence</span></div>
          <div class="tcmn-cell"><b>{{ video.reviewed }}</b><span>reviewed</span></div>
          <div class="tcmn-cell"><b>{{ video.waiting }}</b><span>to look at</span></div>
          <div class="tcmn-cell tcmn-who"><b>{{ video.who }}</b><span>{{ video.when }}</span></div>
        </div>
        <div v-if="!shown.length" class="tcmn-about tcmn-none">no video has that in its row</div>
      </div>
    </div>`,
  props: {
    videos: Array, // of { name, patient, length, stage, worst, reviewed, waiting, who, when, openBy, problem, thumbnail }
  },
  data() {
    return { search: "", picked: this.videos[0]?.name };
  },
  computed: {
    shown() {
      const words = this.search.toLowerCase().split(/\s+/).filter(Boolean);
      return this.videos.filter((video) => {
        const text = [video.name, video.patient, video.stage, video.who, video.openBy].join(" ").toLowerCase();
        return words.every((word) => text.includes(word));
      });
    },
  },
  watch: {
    shown(rows) {
      if (!rows.some((video) => video.name === this.picked)) this.picked = rows[0]?.name;
    },
  },
  mounted() {
    window.addEventListener("keydown", this.key, true);
  },
  unmounted() {
    window.removeEventListener("keydown", this.key, true);
  },
  methods: {
    open() {
      if (this.picked !== undefined) this.$emit("open", this.picked);
    },
    step(by) {
      const place = this.shown.findIndex((video) => video.name === this.picked);
      const next = this.shown[Math.min(Math.max(place + by, 0), this.shown.length - 1)];
      if (!next) return;
      this.picked = next.name;
      this.$nextTick(() => this.$refs.rows.querySelector(".tcmn-on")?.scrollIntoView({ block: "nearest" }));
    },
    key(event) {
      if (document.querySelector(".q-dialog") || event.altKey || event.ctrlKey || event.metaKey) return;
      const { search } = this.$refs;
      const typing = document.activeElement === search;
      if (event.target.matches?.("button:focus-visible") && event.key === "Enter") return;
      const actions = {
        ArrowUp: () => this.step(-1), ArrowDown: () => this.step(1),
        PageUp: () => this.step(-8), PageDown: () => this.step(8),
        Enter: () => this.open(),
        Escape: () => { this.search = ""; search.blur(); },
      };
      if (!typing) Object.assign(actions, {
        Home: () => this.step(-1e6), End: () => this.step(1e6), "/": () => search.focus(),
      });
      if (!actions[event.key]) return;
      actions[event.key]();
      event.preventDefault();
      event.stopPropagation();
    },
  },
};
