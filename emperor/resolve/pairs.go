package resolve

import (
	"fmt"
	"strconv"

	"liege/vassal"
)

// Categories of the level that the policies of the distributions have, and the
// pairs of two different ones.
const (
	categories = 1024
	MaxPairs   = categories * (categories - 1) / 2
)

// Pairs allots a pair of SELinux categories to each user, and remembers it: two
// users in one domain are kept apart by it (KERNEL 11), and a pair is never
// given to a second user, because files of the first may still have it.
type Pairs struct{ numbers *AutoUIDs }

// PairsFile is the name of the file in the state directory.
const PairsFile = "categories.json"

// NewPairs keeps the allotments in file; first is that of the first pair, 0 the usual.
func NewPairs(file string, first int) *Pairs { return &Pairs{NewAutoUIDs(file, max(first, 1))} }

// Pair returns uid's pair, such as "c1,c2"; the file is written, and synced,
// before a new one is returned.
func (p *Pairs) Pair(uid int) (string, error) {
	n, err := p.numbers.UID(vassal.Name(strconv.Itoa(uid)))
	if err != nil {
		return "", err
	}
	return pair(n)
}

// Look returns the pair that uid has or, of one that has none yet or where the
// file cannot be read, some pair: for a look at what would run, which allots
// nothing.
func (p *Pairs) Look(uid int) (string, error) {
	p.numbers.mu.Lock()
	defer p.numbers.mu.Unlock()
	if err := p.numbers.load(); err == nil {
		if n, ok := p.numbers.names[vassal.Name(strconv.Itoa(uid))]; ok {
			return pair(n)
		}
	}
	return pair(1)
}

// pair is the n-th pair, from 1 on: c0,c1 c0,c2 … c1,c2 …
func pair(n int) (string, error) {
	if n < 1 || n > MaxPairs {
		return "", fmt.Errorf("all %d pairs of categories are allotted", MaxPairs)
	}
	first, left := 0, n-1
	for row := categories - 1; left >= row; row-- {
		left -= row
		first++
	}
	return fmt.Sprintf("c%d,c%d", first, first+1+left), nil
}
