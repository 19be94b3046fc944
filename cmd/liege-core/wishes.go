package main

import "time"

// wishEvery is how often another generation is asked for. The application decides how
// often it wants one, and a core that says more than the Emperor listens to is ended,
// with all its requests (vassal.MaxMessageRate).
const wishEvery = time.Second

// A wish is one for another generation, and why, for the log.
type wish struct {
	why  string
	args []any
}

// wishes are those that were not passed on yet: of many that come at once the first.
type wishes chan wish

func newWishes() wishes { return make(wishes, 1) }

// add never waits: whoever wishes may hold up requests.
func (ws wishes) add(w wish) {
	select {
	case ws <- w:
	default: // one that is passed on later than this came is there
	}
}

// pass passes them on until quit is closed, one each wishEvery. What comes after one
// is passed on as well, if later: the generation that was begun for that may have
// read what was there before.
func (ws wishes) pass(quit <-chan struct{}, on func(wish)) {
	for {
		select {
		case w := <-ws:
			on(w)
		case <-quit:
			return
		}
		select {
		case <-time.After(wishEvery):
		case <-quit:
			return
		}
	}
}
