# The guest of a migration: a boot sector. It counts, writes sectors 1 to 16 in a circle, each filled
# with the count, and after each write reads the one before. It says "." on its serial port every 16
# writes, and "X" and nothing more when it reads something else than it wrote, or gets an error.
#
#   as --32 -o guest.o guest.s && ld -m elf_i386 -Ttext 0x7c00 --oformat binary -o guest guest.o
.code16
.globl _start
_start:
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw $0x7000, %sp
    ljmp $0, $main
main:
    movb %dl, drive
next:
    incl count
    movl count, %eax
    movw $0x8000, %di
    movw $128, %cx
    cld
    rep stosl
    movl count, %eax
    movw $0x8000, buffer
    movb $0x43, %ch             # write
    call disk
    movl count, %eax
    decl %eax
    jz told
    pushl %eax
    movw $0x8200, buffer
    movb $0x42, %ch             # read
    call disk
    popl %eax
    cmpl 0x8200, %eax
    jne fail
    cmpl 0x83fc, %eax
    jne fail
told:
    testb $15, count
    jnz next
    movb $'.', %al
    call say
    jmp next
disk:                           # ax: count of the sector, ch: what to do
    andw $15, %ax
    incw %ax
    movw %ax, block
    movw %cx, %ax
    xorb %al, %al
    movb drive, %dl
    movw $packet, %si
    int $0x13
    jc fail
    ret
say:
    movw $0x3f8, %dx
    outb %al, %dx
    ret
fail:
    movb $'X', %al
    call say
halt:
    hlt
    jmp halt
.balign 4
packet: .byte 16, 0
    .word 1
buffer: .word 0, 0
block: .word 0, 0, 0, 0
count: .long 0
drive: .byte 0
.org 510
.word 0xaa55
