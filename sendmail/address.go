package sendmail

import (
	"fmt"
	"strings"
)

// addresses finds the addresses in a list as header fields have it:
//
//	a@b, "Last, First" <c@d> (comment), Group: e@f, g@h;
//
// It takes what people write, and refuses what could be read in two ways.
func addresses(list string) ([]string, error) {
	var out []string
	p := listParser{s: list}
	for !p.end() {
		a, err := p.next()
		if err != nil {
			return nil, err
		}
		if a != "" {
			out = append(out, a)
		}
	}
	return out, nil
}

// listParser is one list, and how far it was read.
type listParser struct {
	s string
	i int
}

func (p *listParser) end() bool { return p.i >= len(p.s) }

// next reads up to the next comma, or to a border of a group. An address in
// angle brackets counts alone; what stands before it is a name.
func (p *listParser) next() (string, error) {
	var plain strings.Builder
	angle, bracketed := "", false
	for ; !p.end(); p.i++ {
		switch c := p.s[p.i]; c {
		case ',', ';':
			p.i++
			return choose(plain.String(), angle, bracketed)
		case ':':
			plain.Reset() // it was a group's name
		case '(':
			if err := p.comment(); err != nil {
				return "", err
			}
			plain.WriteByte(' ')
		case '"':
			q, err := p.quoted()
			if err != nil {
				return "", err
			}
			plain.WriteString(q)
		case '<':
			end := strings.IndexByte(p.s[p.i:], '>')
			if end < 0 || bracketed {
				return "", fmt.Errorf("%q: brackets that do not match", p.s)
			}
			angle, bracketed = p.s[p.i+1:p.i+end], true
			p.i += end
		default:
			plain.WriteByte(c)
		}
	}
	return choose(plain.String(), angle, bracketed)
}

// comment goes to the end of a comment, which may hold others.
func (p *listParser) comment() error {
	for depth := 0; !p.end(); p.i++ {
		switch p.s[p.i] {
		case '\\':
			p.i++
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				return nil
			}
		}
	}
	return fmt.Errorf("%q: a comment without end", p.s)
}

// quoted goes to the end of a quoted string and returns it with its quotes.
func (p *listParser) quoted() (string, error) {
	from := p.i
	for p.i++; !p.end(); p.i++ {
		switch p.s[p.i] {
		case '\\':
			p.i++
		case '"':
			return p.s[from : p.i+1], nil
		}
	}
	return "", fmt.Errorf("%q: quotes without end", p.s)
}

func choose(plain, angle string, bracketed bool) (string, error) {
	a := strings.TrimSpace(plain)
	if bracketed {
		a = strings.TrimSpace(angle)
	}
	if a == "" {
		return "", nil
	}
	local, domain, ok := cutLast(a)
	if !atoms(local) || strings.ContainsAny(local, "[]") || ok && !atoms(domain) {
		return "", fmt.Errorf("%q is not an address", a)
	}
	return a, nil
}

// cutLast cuts an address at its last @.
func cutLast(a string) (local, domain string, ok bool) {
	if i := strings.LastIndexByte(a, '@'); i >= 0 {
		return a[:i], a[i+1:], true
	}
	return a, "", false
}

// atoms reports whether s has nothing in it that an address needs quotes for.
func atoms(s string) bool {
	return s != "" && len(s) <= 255 && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r == 0x7f || strings.ContainsRune(`"(),:;<>@\`, r)
	})
}
