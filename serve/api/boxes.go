package api

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"liege/vassal"
)

// Bounds of what waits for a process.
const (
	maxSignals  = 256     // signals in a box
	maxMessages = 4096    // messages in a box
	maxWaiting  = 4 << 20 // bytes of messages in a box
	maxMessage  = 64 << 10
	maxWorkers  = 1 << 12 // workers' boxes
)

// What a process waits for (opNext).
const (
	forSignals  = 1
	forMessages = 2
	forFarms    = 4
	forPokes    = 8
)

// item is what a process is told.
type item struct {
	kind byte // s, m, f, p
	data []byte
}

// box is a queue of items for a process, or for whichever of several comes
// first. It outlives the process.
type box struct {
	items   []item
	signals int
	bytes   int
	lost    uint64
}

// boxes are all queues. One lock: an item is small and a look is short.
type boxes struct {
	mu      sync.Mutex
	changed chan struct{} // closed, and made anew, when something was put in

	mules   []box // [0]: any mule's
	farms   map[string]*farmBox
	workers map[[2]int]*box // pool and number
	spooler box             // whichever comes first
	pokes   []box           // by spooler process, from 1
	message int
	inFarms [][]string // by mule
}

type farmBox struct{ box }

func (b *boxes) init(j *vassal.Jobs) {
	b.changed = make(chan struct{})
	b.mules = make([]box, 1+len(j.Mules))
	b.inFarms = make([][]string, 1+len(j.Mules))
	b.farms, b.workers = map[string]*farmBox{}, map[[2]int]*box{}
	for _, f := range j.Farms {
		b.farms[f.Name] = &farmBox{}
		for _, m := range f.Mules {
			if m > 0 && m < len(b.inFarms) {
				b.inFarms[m] = append(b.inFarms[m], f.Name)
			}
		}
	}
	b.pokes = make([]box, 1+len(j.Spoolers)*max(1, j.Spool.Processes))
	if b.message = j.MuleMessage; b.message <= 0 {
		b.message = maxMessage
	}
}

// put adds an item; false: the box is full.
func (b *boxes) put(to *box, it item) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.add(to, it)
}

// add is put with mu held.
func (b *boxes) add(to *box, it item) bool {
	switch {
	case it.kind == 's' && to.signals >= maxSignals,
		it.kind != 's' && (len(to.items)-to.signals >= maxMessages || to.bytes+len(it.data) > maxWaiting):
		to.lost++
		return false
	case it.kind == 'p': // one says as much as many
		for i := range to.items {
			if to.items[i].kind == 'p' {
				return true
			}
		}
	case it.kind == 's':
		to.signals++
	}
	to.bytes += len(it.data)
	to.items = append(to.items, it)
	close(b.changed)
	b.changed = make(chan struct{})
	return true
}

// take takes the first item that mask allows.
func (x *box) take(mask int) (item, bool) {
	for i, it := range x.items {
		wanted := map[byte]int{'s': forSignals, 'm': forMessages, 'f': forFarms, 'p': forPokes}[it.kind]
		if mask&wanted == 0 {
			continue
		}
		x.items = append(x.items[:i], x.items[i+1:]...)
		x.bytes -= len(it.data)
		if it.kind == 's' {
			x.signals--
		}
		return it, true
	}
	return item{}, false
}

// mine are the boxes that c may take from.
func (b *boxes) mine(c *client) []*box {
	switch c.role {
	case 'm':
		if c.number < 1 || c.number >= len(b.mules) {
			return nil
		}
		out := []*box{&b.mules[c.number], &b.mules[0]}
		for _, name := range b.inFarms[c.number] {
			out = append(out, &b.farms[name].box)
		}
		return out
	case 's':
		if c.number < 1 || c.number >= len(b.pokes) {
			return nil
		}
		return []*box{&b.pokes[c.number], &b.spooler}
	case 'w':
		return []*box{b.worker(c.pool, c.number)}
	}
	return nil
}

// worker is a worker's box.
func (b *boxes) worker(pool, number int) *box {
	key := [2]int{pool, number}
	x := b.workers[key]
	if x == nil {
		x = &box{}
		if len(b.workers) < maxWorkers {
			b.workers[key] = x
		}
	}
	return x
}

// next waits for the next item of the process.
func (c *client) next() bool {
	mask, good := c.f.small(0, 1, 15)
	if !good {
		return false
	}
	b := &c.h.boxes
	c.h.sides.join(c)
	for {
		b.mu.Lock()
		boxes := b.mine(c)
		for _, x := range boxes {
			if it, found := x.take(mask); found {
				b.mu.Unlock()
				c.a.field([]byte{it.kind})
				c.a.field(it.data)
				c.h.sides.begin(c)
				if c.sent = c.send(); !c.sent {
					b.mu.Lock()
					b.back(x, it)
					b.mu.Unlock()
				}
				return c.sent
			}
		}
		changed := b.changed
		b.mu.Unlock()
		if boxes == nil || !c.wait(changed) {
			return false
		}
	}
}

// back puts an item back that nobody got.
func (b *boxes) back(x *box, it item) {
	x.items = append([]item{it}, x.items...)
	x.bytes += len(it.data)
	if it.kind == 's' {
		x.signals++
	}
	close(b.changed)
	b.changed = make(chan struct{})
}

// toMule sends a message to a mule, or to any.
func (c *client) toMule() bool {
	b := &c.h.boxes
	n, good := c.f.small(0, 0, len(b.mules)-1)
	switch {
	case len(c.f.fields) < 2:
		return false
	case len(b.mules) == 1:
		c.a.refuse("no mule configured; hint: mule = true, or mules = N")
		return true
	case !good:
		c.a.refuse("invalid mule id: there are %d mules", len(b.mules)-1)
		return true
	case len(c.f.fields[1]) > b.message:
		c.a.refuse("the message has %d bytes, more than %d; hint: mule-msg-size = %d", len(c.f.fields[1]), b.message, len(c.f.fields[1]))
		return true
	}
	return c.say(b.put(&b.mules[n], item{'m', []byte(c.f.text(1))}))
}

// toFarm sends a message to whichever mule of a farm comes first.
func (c *client) toFarm() bool {
	b := &c.h.boxes
	f := b.farms[c.f.text(0)]
	switch {
	case len(c.f.fields) < 2:
		return false
	case f == nil:
		c.a.refuse("unknown farm %q", clip(c.f.text(0)))
		return true
	case len(c.f.fields[1]) > b.message:
		c.a.refuse("the message has %d bytes, more than %d", len(c.f.fields[1]), b.message)
		return true
	}
	return c.say(b.put(&f.box, item{'f', []byte(c.f.text(1))}))
}

// waiting counts the messages that no mule has taken.
func (b *boxes) waiting() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range b.mules {
		n += len(b.mules[i].items) - b.mules[i].signals
	}
	for _, f := range b.farms {
		n += len(f.items) - f.signals
	}
	return n
}

// Settle waits until the mules have worked off their messages, at most until
// ctx ends, and returns how many are left. They are lost with the Host.
func (h *Host) Settle(ctx context.Context) int {
	t := time.NewTicker(settleEvery)
	defer t.Stop()
	for {
		mules, _ := h.Sides()
		busy, lives := false, false
		for _, m := range mules {
			busy, lives = busy || m.Status == "busy", lives || m.PID != 0
		}
		n := h.boxes.waiting()
		if !lives || n == 0 && !busy {
			return n
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return n
		}
	}
}

const settleEvery = 10 * time.Millisecond

// poke tells the spoolers that there is a task.
func (c *client) poke() bool {
	b := &c.h.boxes
	for i := range b.pokes[1:] {
		b.put(&b.pokes[i+1], item{kind: 'p'})
	}
	return true
}

// deliver hands a signal to those that target means, in the words of
// uwsgi.register_signal.
func (h *Host) deliver(pool, n int, target string) error {
	b := &h.boxes
	it := item{'s', []byte{byte(n)}}
	full := func(good bool) error {
		if !good {
			return fmt.Errorf("%d signals wait for %q already", maxSignals, target)
		}
		return nil
	}
	switch target {
	case "", "worker", "worker0":
		return h.signals.toAny(pool, n)
	case "workers", "active-workers":
		good := true
		for _, w := range h.pool.Stats().Workers {
			if target == "workers" || !w.Cheap {
				b.mu.Lock()
				good = b.add(b.worker(pool, w.ID), it) && good
				b.mu.Unlock()
			}
		}
		return full(good)
	case "mule", "mule0":
		return full(b.put(&b.mules[0], it))
	case "mules":
		good := true
		for i := 1; i < len(b.mules); i++ {
			good = b.put(&b.mules[i], it) && good
		}
		return full(good)
	case "spooler":
		return full(b.put(&b.spooler, it))
	}
	if n, good := numbered(target, "worker"); good {
		b.mu.Lock()
		defer b.mu.Unlock()
		return full(b.add(b.worker(pool, n), it))
	}
	if n, good := numbered(target, "mule"); good && n < len(b.mules) {
		return full(b.put(&b.mules[n], it))
	}
	if f := b.farm(target); f != nil {
		return full(b.put(&f.box, it))
	}
	return fmt.Errorf("unknown target %q", target)
}

// farm is the farm of a target: farm_NAME, or farmN.
func (b *boxes) farm(target string) *farmBox {
	if name, found := strings.CutPrefix(target, "farm_"); found {
		return b.farms[name]
	}
	return nil
}

func numbered(target, prefix string) (int, bool) {
	rest, found := strings.CutPrefix(target, prefix)
	n, err := strconv.Atoi(rest)
	return n, found && err == nil && n > 0 && n < maxWorkers
}
