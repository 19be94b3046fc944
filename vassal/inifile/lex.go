package inifile

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"gopkg.in/ini.v1"

	"liege/vassal"
)

// line is one "key = value" of a section that is read, as written.
type line struct {
	key, value string
	bare       bool
	num        int // from 1
}

// blanks is what uWSGI trims: no other space is one.
const blanks = " \t\r"

// lexer splits one text. Its problems carry line numbers only; the reader adds
// the file.
type lexer struct {
	wanted  []string // sections, in the order in which they are read
	prepare bytes.Buffer
	seen    map[string]bool // sections there are, of those that matter
	count   int             // of lines
	puts    []int           // lines of each wanted section
	report  func(num int, code, message, hint string)
	note    func(num int, code, message, hint string)
}

// lex returns the lines of the wanted sections of text, one section after the
// other. found is false if text has none of them.
//
// ini.v1 has no line numbers, loses the order between different keys and has
// syntax of its own for some values. So each line of a wanted section is given
// to it under a unique key that carries its number, key and value behind a
// guard character that keeps quotes, backticks and blanks as they are.
func (x *lexer) lex(text []byte) (lines []line, found bool) {
	x.seen, x.puts = map[string]bool{}, make([]int, len(x.wanted))
	if !x.sound(text) {
		return nil, true
	}
	x.mark(text)
	file, err := ini.LoadSources(ini.LoadOptions{
		AllowBooleanKeys:           true,
		AllowShadows:               true,
		AllowDuplicateShadowValues: true,
		IgnoreInlineComment:        true,
		IgnoreContinuation:         true,
		PreserveSurroundedQuote:    true,
		KeyValueDelimiters:         "=",
	}, x.prepare.Bytes())
	if err != nil {
		x.report(0, vassal.CodeSyntax, "cannot be read as an ini file", "")
		return nil, true
	}
	for i, name := range x.wanted {
		if !x.seen[name] {
			continue
		}
		found = true
		for n := 0; ; n++ {
			section, err := file.GetSection(chunk(i, n))
			if err != nil {
				break // all were read
			}
			for _, key := range section.Keys() {
				lines = append(lines, unmark(key.Name(), key.Value()))
			}
		}
	}
	return lines, found
}

// sound refuses texts that are no ini file at all.
func (x *lexer) sound(text []byte) bool {
	switch {
	case len(text) > MaxFile:
		x.report(0, vassal.CodeTooBig, fmt.Sprintf("larger than %d bytes", MaxFile), "")
	case bytes.HasPrefix(text, []byte("\xff\xfe")), bytes.HasPrefix(text, []byte("\xfe\xff")):
		x.report(1, vassal.CodeSyntax, "is UTF-16", "save it as UTF-8")
	case bytes.IndexByte(text, 0) >= 0:
		x.report(lineOf(text, bytes.IndexByte(text, 0)), vassal.CodeSyntax, "has a NUL byte", "is it half written, or not a text at all?")
	case !utf8.Valid(text):
		x.report(lineOf(text, invalidAt(text)), vassal.CodeSyntax, "is not valid UTF-8", "save it as UTF-8")
	default:
		return true
	}
	return false
}

func lineOf(text []byte, at int) int { return 1 + bytes.Count(text[:at], []byte("\n")) }

func invalidAt(text []byte) int {
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRune(text[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return len(text)
}

// mark fills x.prepare.
func (x *lexer) mark(text []byte) {
	text = bytes.TrimPrefix(text, []byte("\ufeff")) // BOM: uWSGI would not find the section
	current := -1                                   // index in wanted; -1: none of ours
	before, garbage := true, false
	for num := 1; len(text) > 0; num++ {
		var raw []byte
		raw, text, _ = bytes.Cut(text, []byte("\n"))
		s := strings.Trim(string(raw), blanks)
		switch {
		case s == "" || s[0] == ';' || s[0] == '#':
		case s[0] == '[':
			name, ok := x.header(s, num, before || current >= 0)
			if ok {
				before = false
				current = x.enter(name)
			}
		case before:
			if !garbage {
				x.report(num, vassal.CodeSyntax, "text before the first section", "begin the file with [uwsgi]; a comment needs ; or # at the beginning of its line")
			}
			garbage = true
		case current >= 0:
			x.put(current, s, num)
		}
	}
}

// header returns the name in a section line. strict is false inside sections
// that are not looked at, where a line that begins with "[" may be anything.
func (x *lexer) header(s string, num int, strict bool) (name string, ok bool) {
	name, rest, closed := strings.Cut(s[1:], "]")
	name = strings.Trim(name, blanks)
	if !closed {
		if strict || x.wants(name) >= 0 {
			x.report(num, vassal.CodeSyntax, "section line without ]", "write ["+plainWord(name, "uwsgi")+"]")
			return name, true // what follows belongs to it, for further problems
		}
		return "", false
	}
	rest = strings.Trim(rest, blanks)
	if rest != "" && x.wants(name) >= 0 && strings.Contains(s, "\r") {
		x.report(num, vassal.CodeSyntax, crInside, crHint)
	} else if rest != "" && x.wants(name) >= 0 {
		x.note(num, vassal.CodeSyntax, "text after the ] of a section line counts as a comment", "uWSGI does not find such a section; put the comment on a line of its own")
	}
	return name, true
}

const (
	crInside = "has a carriage return in the middle of the line"
	crHint   = "save the file with Unix or Windows line ends"
)

// plainWord is s if it is a harmless word, else other: what a file holds is
// not for every reader of a message.
func plainWord(s, other string) string {
	if s == "" || len(s) > 32 || strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") != "" {
		return other
	}
	return s
}

func (x *lexer) wants(name string) int {
	for i, w := range x.wanted {
		if w == name {
			return i
		}
	}
	return -1
}

func (x *lexer) enter(name string) int {
	i := x.wants(name)
	if i >= 0 || name == "emperor" || slices.ContainsFunc(x.wanted, func(w string) bool { return strings.EqualFold(name, w) }) {
		x.seen[name] = true
	}
	if i >= 0 {
		fmt.Fprintf(&x.prepare, "[%s]\n", chunk(i, x.puts[i]/chunkLines))
	}
	return i
}

// chunk is the name that ini.v1 is given for a part of a wanted section: it
// looks through all keys of a section for each new one, so that one long
// section would take it time by the square of its length.
func chunk(section, n int) string { return fmt.Sprintf("%d-%d", section, n) }

const chunkLines = 256

// put gives ini.v1 one line of the wanted section with the index current.
func (x *lexer) put(current int, s string, num int) {
	if x.count++; x.count > MaxSettings {
		if x.count == MaxSettings+1 {
			x.report(num, vassal.CodeTooBig, fmt.Sprintf("more than %d lines", MaxSettings), "")
		}
		return
	}
	if strings.ContainsRune(s, '\r') {
		x.report(num, vassal.CodeSyntax, crInside, crHint)
		return
	}
	key, value, assigned := strings.Cut(s, "=")
	key, value = strings.TrimRight(key, blanks), strings.TrimLeft(value, blanks)
	if key == "" {
		x.report(num, vassal.CodeSyntax, "no name before the equals sign", "")
		return
	}
	if n := x.puts[current]; n > 0 && n%chunkLines == 0 {
		fmt.Fprintf(&x.prepare, "[%s]\n", chunk(current, n/chunkLines))
	}
	x.puts[current]++
	if assigned {
		fmt.Fprintf(&x.prepare, "%d|%s|=|%s|\n", num, key, value)
	} else {
		fmt.Fprintf(&x.prepare, "%d|%s|\n", num, key)
	}
}

// unmark undoes put. A bare key holds no "=", so what ini.v1 found behind one
// is the value.
func unmark(name, value string) line {
	number, key, _ := strings.Cut(name, "|")
	num, err := strconv.Atoi(number)
	if err != nil {
		panic("inifile: a line without its number came back from ini.v1")
	}
	l := line{key: strings.TrimSuffix(key, "|"), num: num}
	if len(value) >= 2 && value[0] == '|' {
		l.value = value[1 : len(value)-1]
	} else {
		l.bare = true // ini.v1 gives it the value "true"
	}
	return l
}
