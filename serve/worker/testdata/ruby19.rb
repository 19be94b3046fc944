# Says what in Ruby programs Ruby 1.9.3 does not know: lines "LINE: WHAT". The
# programs come by standard input, with NULs between them, and so do the
# answers by standard output. It needs a Ruby from 2.5 to 3.3, whose own parser
# (Ripper) tells tokens and nodes apart.
require 'ripper'

class Newer < Ripper::SexpBuilder
  # Methods that came after 1.9.3. A program may call one where it asks first:
  # then its name stands behind respond_to? or defined? as well.
  METHODS = %w[
    b casecmp? clamp clock_gettime delete_prefix delete_suffix dig fetch_values filter filter_map itself lazy match?
    negative? positive? pread pwrite scrub slice_after slice_when sum tally then to_h transform_keys transform_values
    undump unicode_normalize union unpack1 warmup yield_self
  ].freeze

  attr_reader :found

  def initialize(text)
    super
    @found = []
    @calls = []
    @text = text
  end

  def say(what)
    @found << [lineno, what]
  end

  # --- tokens

  def on_op(token)
    say('&. (2.3)') if token == '&.'
    super
  end

  def on_heredoc_beg(token)
    say('<<~ (2.3)') if token.start_with?('<<~')
    super
  end

  def on_symbols_beg(token)
    say('%I (2.0)')
    super
  end

  def on_qsymbols_beg(token)
    say('%i (2.0)')
    super
  end

  def on_label_end(token)
    say('a quoted key with a colon (2.2)')
    super
  end

  def on_rational(token)
    say('a rational number (2.1)')
    super
  end

  def on_imaginary(token)
    say('an imaginary number (2.1)')
    super
  end

  def on_ident(token)
    say("#{token} (2.0)") if %w[__dir__ refine using].include?(token)
    say("#{token}, a numbered parameter (2.7)") if token =~ /\A_[1-9]\z/
    super
  end

  # --- nodes

  def on_call(receiver, operator, name)
    @calls << [lineno, name[1]] if name.is_a?(Array) && METHODS.include?(name[1])
    super
  end

  # required, optional, rest, required behind it, keywords, more keywords, block
  def on_params(required, optional, rest, post, keywords, more, block)
    say('keyword parameters (2.0)') if keywords
    say('** among the parameters, or ... (2.0)') if more
    say('& without a name (3.1)') if block == [:blockarg, nil]
    super
  end

  def on_args_forward(*)
    say('... (2.7)')
    super
  end

  def on_args_add(args, arg)
    say('a definition as an argument (2.1)') if arg.is_a?(Array) && [:def, :defs].include?(arg[0])
    super
  end

  def on_assoc_splat(value)
    say('** in a hash or a call (2.0)')
    super
  end

  def on_assoc_new(key, value)
    say('a key without a value (3.1)') if value.nil?
    super
  end

  def on_dot2(from, to)
    say('a range without an end (2.6)') if to.nil?
    say('a range without a beginning (2.7)') if from.nil?
    super
  end

  def on_dot3(from, to)
    on_dot2(from, to)
    super
  end

  def on_def(name, params, body)
    endless(body)
    super
  end

  def on_defs(target, dot, name, params, body)
    endless(body)
    super
  end

  def endless(body)
    first = body[0] == :bodystmt ? body[1] : body
    say('a method without an end (3.0)') unless [:stmts_add, :stmts_new].include?(first[0])
  end

  def on_do_block(params, body)
    say('rescue or ensure in a do block (2.5)') if body.is_a?(Array) && body[0] == :bodystmt && body[2..4].any?
    super
  end

  def on_unary(operator, value)
    say("#{operator} before a string (2.3)") if [:+@, :-@].include?(operator) && value.is_a?(Array) && value[0] == :string_literal
    super
  end

  def on_in(*)
    say('a pattern (2.7)')
    super
  end

  # --- what the parser does not show

  # A comment between the calls of a chain whose dots lead.
  def chains
    commented = nil
    @text.each_line.with_index(1) do |line, number|
      case line
      when /\A\s*#/ then commented ||= number
      when /\A\s*\.\w/ then @found << [number, 'a comment in a chain of calls (2.7)'] if commented
        commented = nil
      else commented = nil
      end
    end
  end

  # Calls of newer methods that nothing asks for first.
  def methods_called
    @calls.each do |number, name|
      next if @text =~ /respond_to\?\(:#{Regexp.escape(name)}\)|defined\?\([^)]*#{Regexp.escape(name.upcase)}/
      next if name == 'clock_gettime' && @text.include?('defined?(Process::CLOCK_MONOTONIC)')
      @found << [number, "the method #{name}"]
    end
  end
end

answers = $stdin.read.split("\0", -1).map do |text|
  parser = Newer.new(text)
  parser.parse
  next 'not a Ruby program at all' if parser.error?
  parser.chains
  parser.methods_called
  parser.found.sort.uniq.map { |number, what| "#{number}: #{what}" }.join("\n")
end
print answers.join("\0")
