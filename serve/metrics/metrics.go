// Package metrics is uWSGI's metrics: numbers with names that stats show, that
// routing rules count with and read (${metric[NAME]}), and that an app sets.
//
//	set := metrics.New(app.Metrics, app.Dir, builtIn)
//	set.Add("logins", 1)
//	n, ok := set.Get("worker.1.requests")
//
// Those that the vassal's file defines live here; the others (core.*,
// worker.N.*, socket.N.*) are counted elsewhere, and asked for when somebody
// wants to know. They are lost with the generation.
//
// A metric may take its value from a file or from others (collector=). That
// happens when it is read, not every so many seconds as in uWSGI.
//
// All methods are safe for concurrent use. A nil Set has no metrics.
package metrics

import (
	"io"
	"os"
	"path"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"liege/vassal"
)

// Value is a metric at one moment.
type Value struct {
	Name  string            `json:"-"`
	Type  vassal.MetricType `json:"type"`
	OID   string            `json:"oid"`
	Value int64             `json:"value"`
}

// Set is the metrics of a vassal. Make one with New.
type Set struct {
	own     []*own
	named   map[string]*own
	builtIn func() []Value
	dir     string
}

// own is a metric of the file's.
type own struct {
	vassal.Metric
	value atomic.Int64
}

// New makes the metrics that m defines; nil without any. Relative paths are
// below dir.
func New(m *vassal.Metrics, dir string, builtIn func() []Value) *Set {
	if m == nil {
		return nil
	}
	s := &Set{named: map[string]*own{}, builtIn: builtIn, dir: dir}
	for i := range m.Own {
		o := &own{Metric: m.Own[i]}
		o.value.Store(o.Initial)
		s.own, s.named[o.Name] = append(s.own, o), o
	}
	return s
}

// settable is the metric of the file's by this name, behind aliases, whose
// value rules and the app make; nil if there is none.
func (s *Set) settable(name string) *own {
	if s == nil {
		return nil
	}
	o := s.named[name]
	for range maxDepth {
		if o == nil || o.Type != vassal.MetricAlias {
			break
		}
		o = s.named[o.Alias]
	}
	if o == nil || o.Collect != "" || o.Type == vassal.MetricAlias {
		return nil
	}
	return o
}

// Has reports whether there is a metric by this name that can be set.
func (s *Set) Has(name string) bool { return s.settable(name) != nil }

// Add adds n, and reports whether there is such a metric.
func (s *Set) Add(name string, n int64) bool {
	o := s.settable(name)
	if o != nil {
		o.value.Add(n)
	}
	return o != nil
}

// Mul multiplies by n.
func (s *Set) Mul(name string, n int64) bool {
	return s.update(name, func(v int64) int64 { return v * n })
}

// Div divides by n; by 0 it changes nothing, as in uWSGI.
func (s *Set) Div(name string, n int64) bool {
	return s.update(name, func(v int64) int64 {
		if n == 0 {
			return v
		}
		return v / n
	})
}

// Store sets the value.
func (s *Set) Store(name string, n int64) bool {
	return s.update(name, func(int64) int64 { return n })
}

func (s *Set) update(name string, f func(int64) int64) bool {
	o := s.settable(name)
	if o == nil {
		return false
	}
	for {
		v := o.value.Load()
		if o.value.CompareAndSwap(v, f(v)) {
			return true
		}
	}
}

// Reached reports whether the metric name is at value, or above it. With reset it
// becomes that in the same moment: nothing that is counted meanwhile is lost.
func (s *Set) Reached(name string, value int64, reset *int64) bool {
	o := s.settable(name)
	if reset == nil || o == nil {
		n, found := s.Get(name)
		return found && n >= value
	}
	for {
		n := o.value.Load()
		if n < value {
			return false
		}
		if o.value.CompareAndSwap(n, *reset) {
			return true
		}
	}
}

// Get is the value of any metric.
func (s *Set) Get(name string) (int64, bool) {
	if s == nil {
		return 0, false
	}
	look := &look{s: s}
	return look.get(name, 0)
}

// All are all metrics with their values: uWSGI's own first.
func (s *Set) All() []Value {
	if s == nil {
		return nil
	}
	look := &look{s: s}
	out := append([]Value(nil), look.builtIn()...)
	for _, o := range s.own {
		v, _ := look.get(o.Name, 0)
		oid := o.OID
		if o.Type == vassal.MetricAlias && oid == "" {
			oid = look.oid(o.Alias)
		}
		out = append(out, Value{o.Name, o.Type, oid, v})
	}
	return out
}

// maxDepth bounds metrics of metrics: what refers to itself is 0.
const maxDepth = 16

// maxSteps bounds how many metrics one look asks: metrics of metrics of metrics
// may be many.
const maxSteps = 100_000

// look is one look at the metrics: what is counted elsewhere is asked for once.
type look struct {
	s     *Set
	all   []Value
	steps int
}

func (l *look) builtIn() []Value {
	if l.all == nil {
		l.all = l.s.builtIn()
	}
	return l.all
}

func (l *look) oid(name string) string {
	if o := l.s.named[name]; o != nil {
		return o.OID
	}
	for _, v := range l.builtIn() {
		if v.Name == name {
			return v.OID
		}
	}
	return ""
}

func (l *look) get(name string, depth int) (int64, bool) {
	o := l.s.named[name]
	l.steps++
	switch {
	case depth > maxDepth || l.steps > maxSteps:
		return 0, false
	case o == nil:
		for _, v := range l.builtIn() {
			if v.Name == name {
				return v.Value, true
			}
		}
		return 0, false
	case o.Type == vassal.MetricAlias:
		return l.get(o.Alias, depth+1)
	}
	return l.value(o, depth), true
}

// value is what the collector of a metric says.
func (l *look) value(o *own, depth int) int64 {
	if o.Collect == "" {
		return o.value.Load()
	}
	if o.Collect == "file" {
		return readNumber(path.Join("/", l.s.absolute(o.File)), o.Number)
	}
	sum := int64(0)
	for _, child := range o.Children {
		v, _ := l.get(child, depth+1)
		sum += v
	}
	switch o.Collect {
	case "avg":
		return sum / int64(max(len(o.Children), 1))
	case "adder":
		return sum + o.Number
	case "multiplier":
		return sum * o.Number
	}
	return sum
}

func (s *Set) absolute(p string) string {
	if path.IsAbs(p) {
		return p
	}
	return path.Join(s.dir, p)
}

// maxFile is how much of a file is read, in bytes.
const maxFile = 4 << 10

// readNumber reads the number that is the word-th word of a file, from 0; 0 if
// there is none.
func readNumber(name string, word int64) int64 {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return 0
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile))
	words := strings.Fields(string(b))
	if err != nil || word < 0 || word >= int64(len(words)) {
		return 0
	}
	n, err := strconv.ParseInt(words[word], 10, 64)
	if err != nil {
		return 0
	}
	return n
}
