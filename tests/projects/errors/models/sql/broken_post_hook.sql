{{ config(post_hook="insert into no_such_audit select 1") }}
select 1 as id
