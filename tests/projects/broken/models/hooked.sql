{{ config(materialized='table', pre_hook="{{ may_fail('pre_hook', 'select 1 as before') }}", post_hook="{{ may_fail('post_hook', 'select 1 as after') }}") }}
select number from {{ ref('solid') }}
