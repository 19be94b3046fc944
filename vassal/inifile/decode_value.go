package inifile

import (
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"liege/vassal"
)

type fileMode = os.FileMode

// value reads s as o's type says, the way uWSGI reads it: the leading number
// counts, the first word of a switch, text as a whole (CONTRACT 10).
func (d *decoder) value(o *Option, s Setting) (value, bool) {
	v := value{Setting: s, opt: o}
	text := strings.TrimSpace(s.Value)
	switch o.Type {
	case Bool:
		return v, d.switchValue(&v, text)
	case Int, Size, Number, Duration:
		return v, d.number(&v, text)
	case Mode:
		return v, d.modeValue(&v, text)
	}
	if text == "" && o.Empty != "" {
		return v, true
	}
	if text == "" {
		d.warn(vassal.CodeBadValue, s, "has no value, so the line has no effect", "")
		return v, false
	}
	if i := strings.IndexByte(s.Value, 0); i >= 0 {
		d.err(vassal.CodeBadValue, s, "holds a NUL byte", "")
		return v, false
	}
	d.lookOfText(o, s)
	if o.Type == Keyval && o.Name != "env" {
		if k, val, ok := strings.Cut(s.Value, "="); !ok || k == "" || val == "" {
			d.err(vassal.CodeBadValue, s, fmt.Sprintf("%q is not written as a=b", s.Value), exampleOf(o))
			return v, false
		}
	}
	return v, true
}

// exampleOf shows how a k=v option is written.
func exampleOf(o *Option) string {
	if o.Path == PathHost {
		return o.Name + " = /static=/srv/site/static"
	}
	return o.Name + " = name=value"
}

// lookOfText notes values that hold what people mean as a comment or a quote.
// Commands and formats may hold both rightly.
func (d *decoder) lookOfText(o *Option, s Setting) {
	if o.Type == Action || o.Type == Address && strings.Contains(firstWord(s.Value), ":") || strings.HasPrefix(o.Name, "exec-") || strings.HasPrefix(o.Name, "log-format") {
		return
	}
	if strings.Contains(s.Value, " ;") || strings.Contains(s.Value, " #") {
		d.comments = append(d.comments, s)
	}
	if n := len(s.Value); n > 1 && (s.Value[0] == '"' || s.Value[0] == '\'') && s.Value[n-1] == s.Value[0] {
		d.quoted = append(d.quoted, s)
	}
}

// switchValue: false, off, no and 0 in any case are false, all else is true,
// and so is a key without "=".
func (d *decoder) switchValue(v *value, text string) bool {
	word := firstWord(text)
	v.on = !isFalse(word)
	if text != word {
		d.trailing(v.Setting, word)
	}
	return true
}

func firstWord(s string) string {
	if f := strings.Fields(s); len(f) > 0 {
		return f[0]
	}
	return ""
}

func isFalse(word string) bool {
	switch strings.ToLower(word) {
	case "false", "off", "no", "0":
		return true
	}
	return false
}

// number reads the leading number and a unit where the option is ours.
func (d *decoder) number(v *value, text string) bool {
	frac := v.opt.Type == Number || v.opt.Since == "liege" && v.opt.Type != Int
	if v.opt.Name == "swap-max" && strings.EqualFold(text, "max") {
		v.n = vassal.NoSwapLimit
		return true
	}
	end := leading(text, frac)
	switch {
	case end == 0 && v.opt.Since != "liege" && forNone(text):
		d.warn(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is not a number, and counts as 0", clip(text)), "remove the line, or "+d.numberHint(v.opt))
		return true
	case end == 0:
		d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is not a number", clip(text)), d.numberHint(v.opt))
		return false
	}
	x, err := strconv.ParseFloat(text[:end], 64)
	if err != nil || math.Abs(x) > 1<<53 {
		d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is too large a number", clip(text[:end])), "")
		return false
	}
	if x < 0 && v.opt.Name != "prio" && v.opt.Name != "oom-score-adj" {
		d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%s is negative", text[:end]), d.numberHint(v.opt))
		return false
	}
	scale, used := 1.0, 0
	if v.opt.Since == "liege" {
		scale, used = unit(v.opt.Type, text[end:])
	}
	rest := strings.TrimSpace(text[end+used:])
	if _, n := unit(Size, rest); n > 0 && n == len(rest) && v.opt.Unit != "" && used == 0 {
		d.warn(vassal.CodeTrailingText, v.Setting, fmt.Sprintf("%s means %s %s: the unit has no effect", text, text[:end], v.opt.Unit), d.numberHint(v.opt))
	} else if rest != "" {
		d.trailing(v.Setting, text[:end+used])
	}
	return d.store(v, x*scale)
}

// forNone reports whether a word in place of a number is one that people mean
// as "the usual" or "none" by: uWSGI reads 0, which is that.
func forNone(word string) bool {
	switch strings.ToLower(word) {
	case "true", "yes", "on", "false", "no", "off", "none", "auto":
		return true
	}
	return false
}

// store keeps x in the member for the option's type.
func (d *decoder) store(v *value, x float64) bool {
	if math.Abs(x) > 1<<60 {
		d.err(vassal.CodeBadValue, v.Setting, "is too large", "")
		return false
	}
	switch v.opt.Type {
	case Number:
		v.f = x
	case Duration:
		const longest = 100 * 365 * 24 * 3600
		v.dur = time.Duration(min(x, longest) * float64(time.Second))
	default:
		v.n = int64(x)
	}
	return true
}

func (d *decoder) numberHint(o *Option) string {
	switch {
	case o.Type == Size:
		return o.Name + " = 512M"
	case o.Type == Number:
		return o.Name + " = 1.5"
	case o.Unit != "":
		return fmt.Sprintf("%s = a number of %s", o.Name, o.Unit)
	case o.Type == Int && leading(o.Default, false) > 0:
		return o.Name + " = " + o.Default
	case o.Type == Int:
		return o.Name + " = a number"
	}
	return ""
}

// leading is the length of the number that s begins with, as strtol finds it.
func leading(s string, frac bool) int {
	i, digits, dot := 0, 0, false
	if i < len(s) && (s[i] == '-' || s[i] == '+') {
		i++
	}
	for ; i < len(s); i++ {
		if s[i] >= '0' && s[i] <= '9' {
			digits++
			continue
		}
		if frac && !dot && s[i] == '.' && i+1 < len(s) && s[i+1] >= '0' && s[i+1] <= '9' {
			dot = true
			continue
		}
		break
	}
	if digits == 0 {
		return 0
	}
	return i
}

// unit is the scale of the unit that s begins with, and the unit's length.
func unit(t Type, s string) (float64, int) {
	word := s
	if i := strings.IndexFunc(s, func(r rune) bool { return r < 'A' || r > 'Z' && r < 'a' || r > 'z' }); i >= 0 {
		word = s[:i]
	}
	var scale float64
	switch t {
	case Size:
		scale = map[string]float64{"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}[strings.TrimSuffix(strings.TrimSuffix(strings.ToLower(word), "b"), "i")]
	case Duration:
		scale = map[string]float64{"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}[strings.ToLower(word)]
	}
	if scale == 0 {
		return 1, 0
	}
	return scale, len(word)
}

// modeValue reads octal digits; chmod-socket alone means 666, as in uWSGI.
func (d *decoder) modeValue(v *value, text string) bool {
	if text == "" && v.opt.Empty != "" {
		v.n = 0o666
		return true
	}
	end := 0
	for end < len(text) && text[end] >= '0' && text[end] <= '7' {
		end++
	}
	n, err := strconv.ParseInt(text[:end], 8, 32)
	if end == 0 || err != nil || n > 0o7777 || end < len(text) && strings.IndexByte(blanks, text[end]) < 0 {
		like := map[bool]string{true: "022", false: "660"}[v.opt.Name == "umask"]
		d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is not an octal mode", clip(text)), v.opt.Name+" = "+like)
		return false
	}
	if rest := strings.TrimSpace(text[end:]); rest != "" {
		d.trailing(v.Setting, text[:end])
	}
	v.n = n & 0o777
	return true
}

func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}
