package inifile

import (
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"strconv"
	"strings"
	"syscall"

	"liege/vassal"
)

// block is the if-… or for… that lines stand in. Blocks do not nest, as in
// uWSGI; a block is applied line by line, so that a loop over a and b of the
// lines x and y gives x x y y.
type block struct {
	word string // that opened it; empty: no block
	at   place
	times
	failed bool // of the last if: else applies
	inElse bool
	nested int // blocks inside, which are errors
}

// times says how often a block is applied.
type times struct {
	items  []string // what %(_) becomes, once per repetition, guarded
	plain  bool     // %(_) is left alone
	tenant bool     // the items are a user's words
	found  bool     // and names of files
}

// run takes the lines of one text.
func (r *reader) run(t *text, lines []line) {
	var b block
	for _, l := range lines {
		if r.stopped {
			return
		}
		at := place{t, l.num}
		key := unguard(r.substitute(t.magic, "", l.key, at))
		switch w := r.words[key]; {
		case w.open != nil:
			r.open(&b, at, key, l, w.open)
		case w.end:
			r.end(&b, at, key)
		case w.otherwise:
			r.otherwise(&b, at, key)
		default:
			r.take(&b, at, key, l)
		}
	}
	if b.word != "" {
		r.warn(b.at, b.word, vassal.CodeBlock, "is never closed: it ends with the file", "end the block with "+closing(b.word)+" =")
	}
}

func closing(word string) string {
	if strings.HasPrefix(word, "for") {
		return "endfor"
	}
	return "endif"
}

func (r *reader) open(b *block, at place, key string, l line, open opener) {
	if b.word != "" {
		b.nested++
		r.fail(at, key, vassal.CodeBlock, fmt.Sprintf("is inside the %s of line %d: blocks do not nest", b.word, b.at.line), "close that one first, or put one of the two into a file and include it")
		return
	}
	value := r.substitute(at.magic, key, l.value, at)
	if strings.Contains(value, "%(") || strings.Contains(value, "$(") || strings.Contains(value, "@(") {
		r.warn(at, key, vassal.CodeNotExpanded, "$(), @() and %() are not expanded here: it sees the text as written", "use %-variables such as %d and %n, or write it out")
	}
	*b = block{word: key, at: at}
	b.times = open(r, at, key, value)
	b.failed = len(b.items) == 0 && strings.HasPrefix(key, "if")
}

func (r *reader) end(b *block, at place, key string) {
	switch {
	case b.nested > 0:
		b.nested--
	case b.word == "":
		r.warn(at, key, vassal.CodeBlock, "closes nothing", "")
	default:
		*b = block{}
	}
}

func (r *reader) otherwise(b *block, at place, key string) {
	switch {
	case b.nested > 0:
	case !strings.HasPrefix(b.word, "if") || b.inElse:
		r.fail(at, key, vassal.CodeBlock, "has no if-… before it", "")
	default:
		b.inElse, b.plain, b.items = true, true, nil
		if b.failed {
			b.items = []string{""}
		}
	}
}

// take adds one line as often as its block says.
func (r *reader) take(b *block, at place, key string, l line) {
	if b.word != "" && (len(b.items) == 0 || b.nested > 0) {
		return
	}
	value := r.substitute(at.magic, key, l.value, at)
	e := entry{key: key, value: value, bare: l.bare, at: at, late: at.late, tenant: !at.operator}
	if b.word == "" {
		r.add(&e)
		return
	}
	for _, item := range b.items {
		if r.stopped {
			return
		}
		one := e
		if !b.plain {
			whole := value
			if b.found { // a file that a pattern of this text found may be read, by its whole name
				whole = strings.ReplaceAll(value, "@(%(_))", "@("+item+")")
			}
			if b.tenant && at.operator {
				item = theirs + item + theirs
			}
			one.value = strings.ReplaceAll(whole, "%(_)", item)
			one.tenant = one.tenant || b.tenant && one.value != value
		}
		r.add(&one)
	}
}

// opener evaluates the word that opens a block.
type opener func(r *reader, at place, key, value string) times

// wordOf is what a word of the language does.
type wordOf struct {
	open      opener
	end       bool
	otherwise bool
	now       func(r *reader, e *entry) // a word outside the logic, see read_words.go
}

func yes(ok bool, item string) times {
	if !ok {
		return times{}
	}
	return times{items: []string{item}}
}

// unless turns a condition round.
func unless(o opener) opener {
	return func(r *reader, at place, key, value string) times {
		return yes(len(o(r, at, key, value).items) == 0, value)
	}
}

func forList(_ *reader, _ place, _, value string) times {
	return times{items: strings.FieldsFunc(value, func(c rune) bool { return c == ' ' })}
}

func forTimes(r *reader, at place, key, value string) times {
	n, rest := leadingInt(value)
	switch {
	case rest == value:
		r.fail(at, key, vassal.CodeBlock, "is not a number", "")
		return times{}
	case rest != "":
		r.warn(at, key, vassal.CodeBlock, "only the number at its beginning counts", "")
	}
	if n > MaxSettings {
		r.stop(at, key, fmt.Sprintf("more than %d settings", MaxSettings))
		return times{}
	}
	var items []string
	for i := int64(1); i <= n; i++ {
		items = append(items, strconv.FormatInt(i, 10))
	}
	return times{items: items}
}

// forGlob keeps a pattern that matches nothing, as uWSGI does.
func forGlob(r *reader, at place, key, value string) times {
	value = unguard(value)
	names, ok := r.glob(at, key, value)
	t := times{tenant: r.namedByUsers(at, value, names), found: true}
	if ok && len(names) == 0 {
		r.warn(at, key, vassal.CodeBlock, "matches nothing: the block is applied once, to the pattern itself", "")
		names = []string{value}
	}
	for _, n := range names {
		t.items = append(t.items, r.data(at, key, n))
	}
	return t
}

// namedByUsers reports whether somebody besides root may have chosen one of the
// names that an operator's pattern found: who can write to a directory on the way.
func (r *reader) namedByUsers(at place, pattern string, names []string) bool {
	if !at.operator {
		return false // its lines are a user's already
	}
	for _, name := range names {
		steps := strings.Split(strings.TrimSuffix(name, "/"), "/")
		for i := range steps {
			dir := strings.Join(steps[:i], "/")
			if path.IsAbs(pattern) {
				dir += "/"
			}
			info, ok := r.stat(at, "for-glob", r.abs(dir))
			if st, known := statOf(info); !ok || !known || st.Uid != 0 || info.Mode()&0o022 != 0 {
				return true
			}
		}
	}
	return false
}

func statOf(info fs.FileInfo) (*syscall.Stat_t, bool) {
	if info == nil {
		return nil, false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return st, ok
}

// forReadline takes whole lines; uWSGI cuts them at 1023 bytes.
func forReadline(r *reader, at place, key, value string) times {
	value = unguard(value)
	if hasScheme(value) {
		r.refuseScheme(at, key, value)
		return times{}
	}
	if info, ok := r.stat(at, key, value); !ok || info.IsDir() {
		r.warn(at, key, vassal.CodeUnreadable, r.abs(value)+" is not there: the block is not applied", "")
		return times{}
	}
	f, ok := r.readFile(at.text, at, key, r.abs(value))
	if !ok {
		return times{}
	}
	s := r.data(at, key, string(f.Data))
	if s == "" {
		return times{}
	}
	var items []string
	for l := range strings.SplitSeq(strings.TrimSuffix(s, "\n"), "\n") {
		items = append(items, strings.TrimSuffix(l, "\r"))
		if len(items) > MaxSettings {
			break // add says so
		}
	}
	return times{items: items, tenant: !f.Operator}
}

// ifOpt sees the settings before it, as they are written. A user's words are text
// only in a line of the operator's: nothing in them is asked with its rights.
func ifOpt(r *reader, at place, _, value string) times {
	name, want, compare := strings.Cut(value, "=")
	r.referenced[unguard(name)] = true
	e := r.firstFor(at, unguard(name))
	if e == nil || compare && unguard(e.value) != unguard(want) {
		return times{}
	}
	return r.said(at, e)
}

// said is one repetition, with what e says.
func (r *reader) said(at place, e *entry) times {
	if e.tenant && at.operator {
		return times{items: []string{guard(unguard(e.value))}, tenant: true}
	}
	return times{items: []string{e.value}}
}

// ifNotOpt and ifNotEnv leave %(_) alone where there is no value at all.
func ifNotOpt(r *reader, at place, key, value string) times {
	if ifOpt(r, at, key, value).items != nil {
		return times{}
	}
	name, _, _ := strings.Cut(value, "=")
	if e := r.firstFor(at, unguard(name)); e != nil {
		return r.said(at, e)
	}
	return times{items: []string{""}, plain: true}
}

func ifNotEnv(r *reader, at place, key, value string) times {
	if ifEnv(r, at, key, value).items != nil {
		return times{}
	}
	name, _, _ := strings.Cut(unguard(value), "=")
	v, set := r.getenv(at, name)
	return times{items: []string{r.data(at, key, v)}, plain: !set}
}

func ifEnv(r *reader, at place, key, value string) times {
	name, want, compare := strings.Cut(unguard(value), "=")
	v, set := r.getenv(at, name)
	return yes(set && (!compare || v == want), r.data(at, key, v))
}

func ifReload(r *reader, _ place, _, _ string) times {
	t := yes(r.opt.Reload, "")
	t.plain = true
	return t
}

func ifHostname(r *reader, _ place, _, value string) times {
	return yes(r.hostname() == unguard(value), value)
}

func ifHostnameMatch(r *reader, at place, key, value string) times {
	re, err := regexp.Compile(unguard(value))
	if err != nil {
		r.fail(at, key, vassal.CodeBlock, "is not a regular expression", "look-around and back references are not supported")
		return times{}
	}
	return yes(re.MatchString(r.hostname()), value)
}

func ifPlugin(r *reader, _ place, _, value string) times {
	return yes(r.opt.Plugin(unguard(value)), value)
}

func ifStat(is func(fs.FileInfo) bool) opener {
	return func(r *reader, at place, key, value string) times {
		info, ok := r.stat(at, key, unguard(value))
		return yes(ok && is(info), value)
	}
}

func anything(fs.FileInfo) bool    { return true }
func isFile(info fs.FileInfo) bool { return info.Mode().IsRegular() }
func isDir(info fs.FileInfo) bool  { return info.IsDir() }
